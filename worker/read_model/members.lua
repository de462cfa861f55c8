-- Every attendance in question of some sessions.
--
-- KEYS  1 watermark
-- ARGV  1 windows: as for scan.lua  2 sessions: JSON list
-- Returns state (where it is not 'live' nothing follows), then for each session a list of ids and scores in turn.
local call, sub = redis.call, string.sub
local mark = call('HMGET', KEYS[1], 'state', 'keys')
if mark[1] ~= 'live' then return { mark[1] or '' } end
local source = sub(KEYS[1], 1, -10) .. mark[2] .. ':ids:'
local windows, answer = cjson.decode(ARGV[1]), { 'live' }
for index, name in ipairs(cjson.decode(ARGV[2])) do
  local found = {}
  for _, of_status in ipairs(windows) do
    for _, window in ipairs(of_status) do
      for _, part in ipairs(call('ZRANGEBYSCORE', source .. name, window[1], window[2], 'WITHSCORES')) do
        found[#found + 1] = part
      end
    end
  end
  answer[index + 1] = found
end
return answer
