-- Applies one chunk of a batch to a partition's read models: pairs, tallies, summaries, alerts, watermark.
--
-- KEYS  1 watermark
-- ARGV  1 generation  2 epoch  3 seq  4 key generation  5 prefix of that key generation  6 shift of document buckets
--       7 pairs: per pair id (16), length (4), packed pair (read_model/documents.py; empty: gone)
--       8 summaries: per booking bucket (2), length (2), bookingId, length (4), JSON (empty: gone)
--       9 alerts: JSON list of [alertId, kind, bookingId, sessionId or "", openedAt ms, JSON or "" (no longer open)]
--      10.. field, value pairs of the watermark to set with this chunk
-- Keys written besides KEYS[1] begin with ARGV[5], which carries the same hash tag.
-- Returns 'ok', 'repeat' (applied before), 'fenced' (another owner), 'gone' (data lost), 'gap' (a chunk is missing).
local call, unpack_, sub, byte = redis.call, struct.unpack, string.sub, string.byte
local mark = call('HMGET', KEYS[1], 'generation', 'epoch', 'seq', 'keys', 'building')
if not mark[2] then return 'gone' end
if mark[2] ~= ARGV[2] then return 'fenced' end
if mark[1] ~= ARGV[1] or (mark[4] ~= ARGV[4] and mark[5] ~= ARGV[4]) then return 'gone' end
local seq, stored = tonumber(ARGV[3]), tonumber(mark[3])
if seq == stored then return 'repeat' end
if seq ~= stored + 1 then return 'gap' end

local prefix, divisor = ARGV[5], 2 ^ tonumber(ARGV[6])
local HEAD, SIZE = '>BBI4I4i8Bc0', 19
local FIELD = { [0] = 'attended', 'notAttended', 'notSet' }
local deltas, order = {}, {}

local function contribute(session, packed, sign)
  local flags, status, number, expected, _, window = unpack_(HEAD, packed)
  local delta = deltas[session]
  if not delta then delta = {}; deltas[session] = delta; order[#order + 1] = session end
  local function add(field, amount) delta[field] = (delta[field] or 0) + sign * amount end
  add('bookings', 1)
  add(FIELD[status], 1)
  if status == 0 then add('attendees', number) end
  add('expectedParticipants', expected)
  if flags >= 2 and #window > 0 then add('window:' .. window, 1) end
  return flags % 2 == 1
end

local function names(packed)
  local at = SIZE + byte(packed, SIZE) + 1
  local session, next_ = unpack_('>Hc0', packed, at)
  local booking = unpack_('>Hc0', packed, next_)
  return session, booking
end

local pairs_, at = ARGV[7], 1
while at <= #pairs_ do
  local id, packed, next_ = unpack_('>c16I4c0', pairs_, at)
  at = next_
  local bucket = prefix .. 'doc:' .. math.floor((byte(id, 1) * 256 + byte(id, 2)) / divisor)
  local old = call('HGET', bucket, id)
  if packed ~= (old or '') then
    local session, booking = names(packed ~= '' and packed or old)
    local had = old and contribute(session, old, -1) or false
    local has = packed ~= '' and contribute(session, packed, 1) or false
    if packed ~= '' then call('HSET', bucket, id, packed) else call('HDEL', bucket, id) end
    if has and not had then
      call('SADD', prefix .. 'ids:' .. session, id)
      call('ZADD', prefix .. 'by-booking', 0, booking .. '\0' .. id)
    elseif had and not has then
      call('SREM', prefix .. 'ids:' .. session, id)
      call('ZREM', prefix .. 'by-booking', booking .. '\0' .. id)
    end
  end
end
for _, session in ipairs(order) do
  local tally = prefix .. 'tally:' .. session
  for field, delta in pairs(deltas[session]) do
    if delta ~= 0 and call('HINCRBY', tally, field, delta) == 0 and sub(field, 1, 7) == 'window:' then
      call('HDEL', tally, field)
    end
  end
  local bookings = call('HGET', tally, 'bookings')
  if not bookings or bookings == '0' then
    call('DEL', tally)
    call('ZREM', prefix .. 'sessions', session)
  else
    call('ZADD', prefix .. 'sessions', 0, session)
  end
end

local summaries = ARGV[8]
at = 1
while at <= #summaries do
  local bucket, booking, json, next_ = unpack_('>HHc0I4c0', summaries, at)
  at = next_
  local key = prefix .. 'booking:' .. bucket
  if json == '' then call('HDEL', key, booking) else call('HSET', key, booking, json) end
end

if ARGV[9] ~= '' then
  for _, alert in ipairs(cjson.decode(ARGV[9])) do
    local id, kind, booking, session, opened, json = unpack(alert)
    local indexes = { 'alerts:at', 'alerts:kind:' .. kind, 'alerts:booking:' .. booking }
    if session ~= '' then indexes[4] = 'alerts:session:' .. session end
    if json == '' then call('HDEL', prefix .. 'alerts', id) else call('HSET', prefix .. 'alerts', id, json) end
    for _, index in ipairs(indexes) do
      if json == '' then call('ZREM', prefix .. index, id) else call('ZADD', prefix .. index, opened, id) end
    end
  end
end

call("HSET", KEYS[1], "seq", ARGV[3], unpack(ARGV, 10))
return 'ok'
