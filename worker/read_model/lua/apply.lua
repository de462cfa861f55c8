-- Applies one chunk of a batch to the read models of a partition: pairs, tallies, bookings, alerts, devices, watermark.
--
-- KEYS  1 watermark
-- ARGV  1 generation  2 epoch  3 seq  4 key generation  5 prefix of that key generation  6 shift of document buckets
--       7 pairs, each: kind (1 byte), id (16), length (2); with kind 2 the length (1) and bytes of the old contribution; then
--         the packed pair (read_model/documents.py; empty: delete). Kinds: 0 the script reads the old contribution from
--         Redis; 1 the contribution is unchanged; 2 the old contribution is given (empty: the pair did not exist);
--         3 the contribution is unchanged, but the minute of the arrival is another one
--       8 bookings, each a kind (1 byte), then
--         kind 0, its record: booking bucket (2), length (2), bookingId, 1 where the index of ATTENDED gets the member that stands
--           for the record, 2 where it loses that (1 byte), minus the noShowRate (8, double; 0: unchanged, 1: has none and may have
--           had one), length (2), record (read_model/booking_records.py; empty: delete)
--         kind 1, an attendance that is a member of an index by booking: length (2), bookingId, id (16), the status of that index
--           now (1; 3: none) and before (1; 255: unknown)
--       9 alerts: JSON list of [alertId, kind, bookingId, sessionId or "", openedAt ms, JSON or "" (closed)]
--      10 devices, each: length (2), source, effective time of its newest event (8, double; ms), length (1), the packed newest
--         event (read_model/devices.py; empty: the source leaves)
--      11.. field, value pairs of the watermark to set with this chunk
-- Writes KEYS[1], the stream of changes beside it, and keys that begin with ARGV[5]; they have the same hash tag.
-- Returns 'ok', 'repeat' (already applied), 'fenced' (another owner), 'gone' (data lost), 'gap' (a chunk is missing).
local call, unpack_, sub, byte, floor = redis.call, struct.unpack, string.sub, string.byte, math.floor
local watermark = call('HMGET', KEYS[1], 'generation', 'epoch', 'seq', 'keys', 'building')
if not watermark[2] then return 'gone' end
if watermark[2] ~= ARGV[2] then return 'fenced' end
if watermark[1] ~= ARGV[1] or (watermark[4] ~= ARGV[4] and watermark[5] ~= ARGV[4]) then return 'gone' end
local seq, last_seq = tonumber(ARGV[3]), tonumber(watermark[3])
if seq <= last_seq then return 'repeat' end
if seq ~= last_seq + 1 then return 'gap' end

local prefix, divisor = ARGV[5], 2 ^ tonumber(ARGV[6])
local DOC, IDS, SESSIONS = prefix .. KEY_DOC, prefix .. KEY_IDS, prefix .. KEY_SESSIONS
local BY_STATUS, NO_SHOWS, ROSTER = prefix .. KEY_BY_STATUS, prefix .. KEY_NO_SHOWS, prefix .. KEY_ROSTER
local SESSIONS_START = prefix .. KEY_SESSIONS_START
local NUMBERS = 2 ^ 32 -- a score is status * NUMBERS + number
local COMMON = 1 -- the score that by-status does not list: ATTENDED with one attendee
local ONLY_LISTED = 3 -- the state in a roster of a pair without an attendance; otherwise its status
-- the fields of a tally by their place in a list of changes
local FIELDS = { 'bookings', 'reported', 'companions', 'expectedParticipants' }
local MISSED = 2 ^ 32 -- of `reported`: each ATTENDED adds 1, each NOT_ATTENDED this
-- changes by session, and the sessions in the order in which they were first changed
local tallies, windows, session_order = {}, {}, {}

-- The changes of the tally of a session, which from now on counts as changed.
local function changes_of(session)
  local tally = tallies[session]
  if not tally then
    tally = { 0, 0, 0, 0 }
    tallies[session] = tally
    session_order[#session_order + 1] = session
  end
  return tally
end

-- Adds the contribution of a pair to the tally of its session, or subtracts it (sign -1). Returns the state of the pair in the
-- roster; and the score of the attendance, if the pair has one.
local function add_to_tally(session, packed, sign)
  local has_attendance, status, number, expected, at = head_of_pair(packed)
  local window = window_of(packed, at)
  local tally = changes_of(session)
  tally[1] = tally[1] + sign
  if status == 0 then
    tally[2] = tally[2] + sign
    tally[3] = tally[3] + sign * (number - 1)
  elseif status == 1 then
    tally[2] = tally[2] + sign * MISSED
  end
  tally[4] = tally[4] + sign * expected
  if window ~= '' then
    local changes = windows[session]
    if not changes then changes = {}; windows[session] = changes end
    changes[window] = (changes[window] or 0) + sign
  end
  if has_attendance then return status, status * NUMBERS + number end
  return ONLY_LISTED
end

local by_status, by_session, rosters = {}, {}, {}
local unlisted = 0 -- change of the number of attendances with the score COMMON

-- Collects the new place of a pair in the roster of its session.
local function enter_in_roster(session, booking, state)
  local entries = rosters[session]
  if not entries then entries = {}; rosters[session] = entries end
  entries[#entries + 1] = state
  entries[#entries + 1] = booking
end

-- Collects the new index entries of an attendance.
local function index_attendance(session, id, score, old_score)
  if score == COMMON then
    unlisted = unlisted + 1
    if old_score then call('ZREM', BY_STATUS, id) end
  else
    if old_score == COMMON then unlisted = unlisted - 1 end
    by_status[#by_status + 1] = score
    by_status[#by_status + 1] = id
  end
  local entries = by_session[session]
  if not entries then entries = {}; by_session[session] = entries end
  entries[#entries + 1] = score
  entries[#entries + 1] = id
end

local pairs_, at, size = ARGV[7], 1, #ARGV[7]
while at <= size do
  local kind, id, length = unpack_('>Bc16H', pairs_, at)
  at = at + 19
  local old -- the old packed pair, or only its contribution
  if kind == 2 then
    old, at = unpack_('>Bc0', pairs_, at)
  end
  local packed = sub(pairs_, at, at + length - 1)
  at = at + length
  local bucket = DOC .. floor((byte(id, 1) * 256 + byte(id, 2)) / divisor)
  if kind == 0 then old = call('HGET', bucket, id) or '' end
  if kind % 2 == 1 then
    call('HSET', bucket, id, packed)
    if kind == 3 then changes_of(name_of(packed)) end
  elseif old ~= packed then
    local named = packed ~= '' and packed or old
    local session, booking = name_of(named), name_of(named, true)
    local old_state, old_score, state, new_score
    if old ~= '' then old_state, old_score = add_to_tally(session, old, -1) end
    if packed ~= '' then
      state, new_score = add_to_tally(session, packed, 1)
      call('HSET', bucket, id, packed)
      if state ~= old_state then enter_in_roster(session, booking, state) end
    else
      call('HDEL', bucket, id)
      call('ZREM', ROSTER .. session, booking)
    end
    if new_score then
      if new_score ~= old_score then index_attendance(session, id, new_score, old_score) end
    elseif old_score then
      if old_score == COMMON then unlisted = unlisted - 1 else call('ZREM', BY_STATUS, id) end
      call('ZREM', IDS .. session, id)
    end
  end
end
-- one ZADD per index: a chunk has each pair once, so none of these members was removed above
if #by_status > 0 then call('ZADD', BY_STATUS, unpack(by_status)) end
if unlisted ~= 0 and call('HINCRBY', prefix .. KEY_UNLISTED, 'attendances', unlisted) == 0 then
  call('DEL', prefix .. KEY_UNLISTED)
end
for session, entries in pairs(by_session) do call('ZADD', IDS .. session, unpack(entries)) end
for session, entries in pairs(rosters) do call('ZADD', ROSTER .. session, unpack(entries)) end

-- The start of a window `<startMs>:<endMs>`, if it has one.
local function start_of(window) return tonumber((string.match(window, '^[^:]+'))) end

-- The earliest start in a tally; +inf if there is none.
local function earliest_start(key)
  local earliest = math.huge
  for _, field in ipairs(call('HKEYS', key)) do
    local start = sub(field, 1, 7) == 'window:' and start_of(sub(field, 8))
    if start and start < earliest then earliest = start end
  end
  return earliest == math.huge and '+inf' or earliest
end

for _, session in ipairs(session_order) do
  local key, changes = prefix .. KEY_TALLY .. session, tallies[session]
  local bookings
  for index = 1, 4 do
    if changes[index] ~= 0 then
      local now = call('HINCRBY', key, FIELDS[index], changes[index])
      if index == 1 then bookings = now end
    end
  end
  -- earliest starts of the windows that no booking gave before, and of those that none gives now
  local added, removed
  for window, change in pairs(windows[session] or {}) do
    if change ~= 0 then
      local field, start = 'window:' .. window, start_of(window)
      local now = call('HINCRBY', key, field, change)
      if now == 0 then
        call('HDEL', key, field)
        if start and (not removed or start < removed) then removed = start end
      elseif now == change and start and (not added or start < added) then
        added = start
      end
    end
  end
  if bookings == 0 then
    call('DEL', key)
    call('ZREM', SESSIONS, session)
    call('ZREM', SESSIONS_START, session)
  elseif bookings == changes[1] then
    call('ZADD', SESSIONS, 0, session)
    call('ZADD', SESSIONS_START, added or '+inf', session)
  elseif removed and not (added and added <= removed) and tonumber(call('ZSCORE', SESSIONS_START, session)) == removed then
    call('ZADD', SESSIONS_START, earliest_start(key), session)
  elseif added then
    call('ZADD', SESSIONS_START, 'LT', added, session)
  end
end

local BY_BOOKING, BOOKING = prefix .. KEY_BY_BOOKING, prefix .. KEY_BOOKING
local UNKNOWN = 255
local bookings = ARGV[8]
at, size = 1, #bookings
while at <= size do
  if byte(bookings, at) == 1 then
    local booking, id, now, before, next_ = unpack_('>Hc0c16BB', bookings, at + 1)
    for status = 0, 2 do
      if status == now then call('ZADD', BY_BOOKING .. status, 0, booking .. '\0' .. id)
      elseif before == status or before == UNKNOWN then call('ZREM', BY_BOOKING .. status, booking .. '\0' .. id) end
    end
    at = next_
  else
    local bucket, booking, record_member, rate, record, next_ = unpack_('>HHc0BdHc0', bookings, at + 1)
    local key, member = BOOKING .. bucket, booking .. '\0' .. sub(bookings, at + 1, at + 2)
    if record == '' then call('HDEL', key, booking) else call('HSET', key, booking, record) end
    if record_member == 1 then call('ZADD', BY_BOOKING .. 0, 0, member)
    elseif record_member == 2 then call('ZREM', BY_BOOKING .. 0, member) end
    if rate < 0 then call('ZADD', NO_SHOWS, rate, booking) elseif rate > 0 then call('ZREM', NO_SHOWS, booking) end
    at = next_
  end
end

if ARGV[9] ~= '' then
  for _, alert in ipairs(cjson.decode(ARGV[9])) do
    local id, kind, booking, session, opened, json = unpack(alert)
    local indexes = { KEY_ALERTS_AT, KEY_ALERTS_KIND .. kind, KEY_ALERTS_BOOKING .. booking }
    if session ~= '' then indexes[4] = KEY_ALERTS_SESSION .. session end
    if json == '' then call('HDEL', prefix .. KEY_ALERTS, id) else call('HSET', prefix .. KEY_ALERTS, id, json) end
    for _, index in ipairs(indexes) do
      if json == '' then call('ZREM', prefix .. index, id) else call('ZADD', prefix .. index, opened, id) end
    end
  end
end

local devices = ARGV[10]
at, size = 1, #devices
while at <= size do
  local source, effective, newest, next_ = unpack_('>Hc0dBc0', devices, at)
  at = next_
  if newest == '' then
    call('HDEL', prefix .. KEY_DEVICES, source)
    call('ZREM', prefix .. KEY_DEVICES_AT, source)
  else
    call('HSET', prefix .. KEY_DEVICES, source, newest)
    call('ZADD', prefix .. KEY_DEVICES_AT, effective, source)
  end
end

call("HSET", KEYS[1], "seq", ARGV[3], unpack(ARGV, 11))
-- a repair fills keys that nobody reads: repair.lua announces them as a whole
if (ARGV[7] ~= '' or ARGV[8] ~= '' or ARGV[9] ~= '' or ARGV[10] ~= '') and watermark[4] == ARGV[4] then
  local names = #session_order <= MAX_NAMES and table.concat(session_order, '\n') or ANY_SESSION
  if #names > MAX_BYTES then names = ANY_SESSION end
  announce(names, ARGV[9] ~= '')
end
return 'ok'
