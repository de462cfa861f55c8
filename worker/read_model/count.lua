-- How many attendances are in question.
--
-- KEYS  1 watermark
-- ARGV  1 windows: as for scan.lua  2 sessions: JSON list, or null for all  3 sessions not in question: JSON list
-- Returns state (where it is not 'live' nothing follows) and the number.
local call, sub = redis.call, string.sub
local mark = call('HMGET', KEYS[1], 'state', 'keys')
if mark[1] ~= 'live' then return { mark[1] or '' } end
local prefix = sub(KEYS[1], 1, -10) .. mark[2] .. ':'
local windows, sessions, total = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), 0

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
for _, name in ipairs(cjson.decode(ARGV[3])) do add(prefix .. 'ids:' .. name, -1) end
return { 'live', total }
