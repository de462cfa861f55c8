-- Unlinks a part of a key generation that is read no more; called until there is no more.
--
-- KEYS  1 watermark
-- ARGV  1 prefix of the key generation  2 how many sessions, alerts or buckets to take  3 document buckets  4 booking buckets
--       5 what is left: a bucket, as counted from all of them down to 1, or 0 while there are sessions or alerts
-- Returns the next call's 5; -1 where there is no more.
local call, prefix, many, left = redis.call, ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local documents, bookings = tonumber(ARGV[3]), tonumber(ARGV[4])
if left == 0 then
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
  if #sessions > 0 or #alerts > 0 then return 0 end
  call('UNLINK', prefix .. 'by-booking:0', prefix .. 'by-booking:1', prefix .. 'by-booking:2', prefix .. 'by-status',
    prefix .. 'no-shows', prefix .. 'alerts')
  return documents + bookings
end
for number = left, math.max(1, left - many + 1), -1 do
  call('UNLINK', number > documents and prefix .. 'booking:' .. (number - documents - 1) or prefix .. 'doc:' .. (number - 1))
end
return left > many and left - many or -1
