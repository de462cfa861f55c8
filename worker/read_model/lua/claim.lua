-- Makes the caller the only writer of the partition: writes of earlier owners are refused from now on.
--
-- KEYS  1 watermark
-- ARGV  1 generation of the caller's table  2 of a build, the operation that made it: it is claimed only while it is that
--       operation's; of the live namespace empty
-- Returns 'dropped' if it is not that operation's build; otherwise epoch, 'live' or 'repair', key generation, the next offsets to apply of events and of bookings (-1: unknown), and
-- their newest times (empty: none, or of another table), which a repair must not set back; and how long ago, in ms, the read
-- models were last known to hold everything that Kafka had (-1: unknown).
local call = redis.call
if ARGV[2] ~= '' and call('HGET', KEYS[1], 'build') ~= ARGV[2] then return 'dropped' end
local watermark = call('HMGET', KEYS[1], 'generation', 'state', 'keys', 'events.offset', 'bookings.offset', 'epoch',
  'events.time', 'bookings.time', 'freshAt')
local now = call('TIME')
-- not less than the clock's microseconds: after a flush, an epoch must not equal that of an earlier owner
local epoch = math.max(tonumber(watermark[6] or 0) + 1, now[1] * 1000000 + now[2])
epoch = string.format('%.0f', epoch)
call('HSET', KEYS[1], 'epoch', epoch, 'seq', 0)
local is_same_table = watermark[1] == ARGV[1]
local fresh_age = -1
if is_same_table and watermark[9] then
  fresh_age = math.max(0, now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(watermark[9]))
end
return { epoch, is_same_table and watermark[2] == 'live' and 'live' or 'repair', watermark[3] or '',
  tonumber(watermark[4] or -1), tonumber(watermark[5] or -1),
  is_same_table and watermark[7] or '', is_same_table and watermark[8] or '', fresh_age }
