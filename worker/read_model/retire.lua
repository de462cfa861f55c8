-- Unlinks a part of a key generation that is read no more; called until it answers 0.
--
-- KEYS  1 watermark
-- ARGV  1 prefix of the key generation  2 how many sessions and alerts to take  3 document buckets  4 booking buckets
-- Returns 1 while there is more to do.
local call, prefix, many = redis.call, ARGV[1], tonumber(ARGV[2])
local sessions = call('ZPOPMIN', prefix .. 'sessions', many)
for i = 1, #sessions, 2 do
  call('UNLINK', prefix .. 'tally:' .. sessions[i], prefix .. 'ids:' .. sessions[i])
end
local alerts = call('ZPOPMIN', prefix .. 'alerts:at', many)
for i = 1, #alerts, 2 do
  local alert = cjson.decode(call('HGET', prefix .. 'alerts', alerts[i]) or '{}')
  call('UNLINK', prefix .. 'alerts:booking:' .. (alert.bookingId or ''), prefix .. 'alerts:kind:' .. (alert.kind or ''),
    prefix .. 'alerts:session:' .. (alert.sessionId or ''))
end
if #sessions > 0 or #alerts > 0 then return 1 end
call('UNLINK', prefix .. 'by-booking:0', prefix .. 'by-booking:1', prefix .. 'by-booking:2', prefix .. 'by-status',
  prefix .. 'no-shows', prefix .. 'alerts')
for bucket = 0, tonumber(ARGV[3]) - 1 do call('UNLINK', prefix .. 'doc:' .. bucket) end
for bucket = 0, tonumber(ARGV[4]) - 1 do call('UNLINK', prefix .. 'booking:' .. bucket) end
return 0
