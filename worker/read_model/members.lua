-- Every attendance in question of some sessions.
--
-- KEYS  watermarks, all of one slot or of one server
-- ARGV  1 windows: as for scan.lua  2 sessions: JSON list
-- Returns for each key a list: state (where it is not 'live' nothing follows), then ids.
local call, sub = redis.call, string.sub
local windows, sessions, answers = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), {}
for index, key in ipairs(KEYS) do
  local mark = call('HMGET', key, 'state', 'keys')
  local found = { mark[1] or '' }
  if mark[1] == 'live' then
    local source = sub(key, 1, -10) .. mark[2] .. ':ids:'
    for _, name in ipairs(sessions) do
      for _, of_status in ipairs(windows) do
        for _, window in ipairs(of_status) do
          local ids = call('ZRANGEBYSCORE', source .. name, window[1], window[2])
          for at = 1, #ids do found[#found + 1] = ids[at] end
        end
      end
    end
  end
  answers[index] = found
end
return answers
