-- Says each second that the partition's writer lives, and how long its topics are.
--
-- KEYS  1 watermark
-- ARGV  1 generation  2 epoch  3 and 4 how long ago Kafka confirmed the end of events and of bookings, ms (empty: not yet)
--       5.. field, value pairs of the watermark to set
-- Times are by this server's clock, which readers compare them with: that of neither worker nor reader counts.
-- Returns 'ok', 'fenced' or 'gone'.
local call = redis.call
local mark = call('HMGET', KEYS[1], 'generation', 'epoch')
if not mark[2] then return 'gone' end
if mark[2] ~= ARGV[2] then return 'fenced' end
if mark[1] ~= ARGV[1] then return 'gone' end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function ago(age) return string.format('%.0f', now - age) end
call('HSET', KEYS[1], 'writtenAt', ago(0), unpack(ARGV, 5))
for index, topic in ipairs({ 'events', 'bookings' }) do
  local age = ARGV[2 + index]
  if age ~= '' then call('HSET', KEYS[1], topic .. '.confirmedAt', ago(age)) end
end
return 'ok'
