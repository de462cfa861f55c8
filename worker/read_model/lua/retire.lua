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
  local sessions = call('ZPOPMIN', prefix .. KEY_SESSIONS, limit)
  for i = 1, #sessions, 2 do
    call('UNLINK', prefix .. KEY_TALLY .. sessions[i], prefix .. KEY_IDS .. sessions[i], prefix .. KEY_ROSTER .. sessions[i])
  end
  local alerts = call('ZPOPMIN', prefix .. KEY_ALERTS_AT, limit)
  for i = 1, #alerts, 2 do
    local alert = cjson.decode(call('HGET', prefix .. KEY_ALERTS, alerts[i]) or '{}')
    call('UNLINK', prefix .. KEY_ALERTS_BOOKING .. (alert.bookingId or ''), prefix .. KEY_ALERTS_KIND .. (alert.kind or ''),
      prefix .. KEY_ALERTS_SESSION .. (alert.sessionId or ''))
  end
  if #sessions > 0 or #alerts > 0 then return 0 end
  call('UNLINK', prefix .. KEY_BY_BOOKING .. 0, prefix .. KEY_BY_BOOKING .. 1, prefix .. KEY_BY_BOOKING .. 2, prefix .. KEY_BY_STATUS,
    prefix .. KEY_UNLISTED,    prefix .. KEY_NO_SHOWS, prefix .. KEY_ALERTS, prefix .. KEY_SESSIONS_START, prefix .. KEY_DEVICES, prefix .. KEY_DEVICES_AT,
    prefix .. KEY_ESTIMATES, prefix .. KEY_DEAD_ONLY)
  return documents + bookings
end
for number = remaining, math.max(1, remaining - limit + 1), -1 do
  call('UNLINK', number > documents and prefix .. KEY_BOOKING .. (number - documents - 1) or prefix .. KEY_DOC .. (number - 1))
end
return remaining > limit and remaining - limit or -1
