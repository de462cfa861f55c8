-- Unlinks a part of a key generation that is no longer read; called again until it returns -1.
--
-- KEYS  1 watermark
-- ARGV  1 prefix of the key generation  2 number of sessions, alerts or buckets to unlink
--       3 number of document buckets  4 number of booking buckets
--       5 number of buckets that remain, or 0 while there may be sessions or alerts
-- Returns argument 5 of the next call; -1 if nothing remains.
local call, prefix, limit, remaining = redis.call, ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local documents, bookings = tonumber(ARGV[3]), tonumber(ARGV[4])
if remaining == 0 then
  local sessions = call('ZPOPMIN', prefix .. 'sessions', limit)
  for i = 1, #sessions, 2 do
    call('UNLINK', prefix .. 'tally:' .. sessions[i], prefix .. 'ids:' .. sessions[i])
  end
  local alerts = call('ZPOPMIN', prefix .. 'alerts:at', limit)
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
for number = remaining, math.max(1, remaining - limit + 1), -1 do
  call('UNLINK', number > documents and prefix .. 'booking:' .. (number - documents - 1) or prefix .. 'doc:' .. (number - 1))
end
return remaining > limit and remaining - limit or -1
