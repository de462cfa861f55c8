-- Makes the caller the partition's one writer: whatever earlier owners still send is refused from here on.
--
-- KEYS  1 watermark
-- ARGV  1 generation of the caller's table
-- Returns epoch, 'live' or 'repair', key generation, applied offset of events, of bookings (-1: none), and their newest
-- times (empty: none, or of another table), which also a repair does not set back.
local call = redis.call
local mark = call('HMGET', KEYS[1], 'generation', 'state', 'keys', 'events.offset', 'bookings.offset', 'epoch',
  'events.time', 'bookings.time')
local now = call('TIME')
-- at least the clock's microseconds: after a flush the numbers must not begin again where an old owner's were
local epoch = math.max(tonumber(mark[6] or 0) + 1, now[1] * 1000000 + now[2])
epoch = string.format('%.0f', epoch)
call('HSET', KEYS[1], 'epoch', epoch, 'seq', 0)
local is_ours = mark[1] == ARGV[1]
return { epoch, is_ours and mark[2] == 'live' and 'live' or 'repair', mark[3] or '', tonumber(mark[4] or -1),
  tonumber(mark[5] or -1), is_ours and mark[7] or '', is_ours and mark[8] or '' }
