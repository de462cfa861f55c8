-- How many attendances are in question.
--
-- KEYS  as for live.lua
-- ARGV  1 windows: as for scan.lua  2 sessions: JSON list, or null for all  3 sessions not in question: JSON list
-- Says of each partition the number.
local call = redis.call
local windows, sessions, denied = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), cjson.decode(ARGV[3])
return of_partitions(function(prefix, answer)
  local total = 0
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
  answer[2] = total
end)
