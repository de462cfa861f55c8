-- How many attendances are in question.
--
-- KEYS  watermarks, all of one slot or of one server
-- ARGV  1 windows: as for scan.lua  2 sessions: JSON list, or null for all  3 sessions not in question: JSON list
-- Returns for each key a list: state (where it is not 'live' nothing follows) and the number.
local call, sub = redis.call, string.sub
local windows, sessions, denied = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), cjson.decode(ARGV[3])
local answers = {}
for index, key in ipairs(KEYS) do
  local mark = call('HMGET', key, 'state', 'keys')
  answers[index] = { mark[1] or '' }
  if mark[1] == 'live' then
    local prefix, total = sub(key, 1, -10) .. mark[2] .. ':', 0
    local function add(source, sign)
      for _, of_status in ipairs(windows) do
        for _, window in ipairs(of_status) do total = total + sign * call('ZCOUNT', source, window[1], window[2]) end
      end
    end
    if sessions == cjson.null then
      add(prefix .. 'by-status', 1)
    else
      for _, name in ipairs(sessions) do add(prefix .. 'ids:' .. name, 1) end
    end
    for _, name in ipairs(denied) do add(prefix .. 'ids:' .. name, -1) end
    answers[index][2] = total
  end
end
return answers
