-- The writer's heartbeat, sent every second: that it is alive, and the end offsets of its topics.
--
-- KEYS  1 watermark
-- ARGV  1 generation  2 epoch  3 and 4 time since Kafka confirmed the end of events and of bookings, ms (empty: not yet)
--       5 when these read models were last known to hold everything that Kafka had, ms (empty: not known)
--       6 seq of the caller's last write that was acknowledged
--       7.. field, value pairs of the watermark to set
-- Times are those of this server's clock, which readers compare them with; the clocks of workers and readers do not matter.
-- Returns the time, ms, or 'fenced', 'gone' or 'gap' (acknowledged writes are lost: the server went back to older data).
local call = redis.call
local watermark = call('HMGET', KEYS[1], 'generation', 'epoch', 'seq')
if not watermark[2] then return 'gone' end
if watermark[2] ~= ARGV[2] then return 'fenced' end
if watermark[1] ~= ARGV[1] then return 'gone' end
if tonumber(watermark[3]) < tonumber(ARGV[6]) then return 'gap' end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function time_before(age) return string.format('%.0f', now - age) end
call('HSET', KEYS[1], 'writtenAt', time_before(0), unpack(ARGV, 7))
for index, topic in ipairs({ 'events', 'bookings' }) do
  local age = ARGV[2 + index]
  if age ~= '' then call('HSET', KEYS[1], topic .. '.confirmedAt', time_before(age)) end
end
if ARGV[5] ~= '' then call('HSET', KEYS[1], 'freshAt', string.format('%.0f', math.min(now, ARGV[5]))) end
return now
