-- Reads the indexes of attendances; shared by the scans, numbers.lua, count.lua, ranked.lua, arrivals.lua and roster.lua.
--
-- A source is a sorted set of ids by score: the index by status, or one index for each session of the query. The index by status
-- does not list the attendances with the score COMMON: they are counted, and read from the documents.

local byte, sub, floor, min, max = string.byte, string.sub, math.floor, math.min, math.max
local NUMBERS = 2 ^ 32 -- a score is status * NUMBERS + number
local COMMON = 1 -- ATTENDED with one attendee
-- places before and after every id, as in index_scan.py
local BEFORE_ALL, AFTER_ALL = '', string.rep('\255', 17)
local CHUNK = 128
-- if the sources of the named sessions have no more entries than this in total, all entries are read
local MAX_GATHERED = 200
-- with more sessions than this, an attendance is matched by its document instead of one lookup for each session's index
local FEW_SESSIONS = 3
-- cost of decoding a document, in addition to the command
local DECODE_COST = 1

-- set by `set_query`
local ascending, limit, budget, ranges_by_status, sessions, divisor
-- the score ranges of all statuses; ranges that touch are merged
local merged_ranges = {}
-- set of the session names, if there are more than FEW_SESSIONS
local session_set
-- whether the query matches COMMON
local has_common = false
-- of the current partition: the prefix of its keys, the index by status, and the number of attendances that this does not list and
-- the query matches; set by `sources_of`
local partition_prefix, by_status, unlisted
-- `spent` when the current partition was started
local spent_before = 0

-- The bounds of a score range as text. Cached: redis.call would format a number again for every command.
local function bounds(range)
  if not range.low then
    range.low, range.high = string.format('%.0f', range[1]), string.format('%.0f', range[2])
  end
  return range.low, range.high
end

local function set_query(is_ascending, key_limit, unit_budget, ranges_json, sessions_json, shift)
  ascending, limit, budget, divisor = is_ascending, key_limit, unit_budget, 2 ^ tonumber(shift)
  ranges_by_status, sessions = cjson.decode(ranges_json), cjson.decode(sessions_json)
  for _, ranges in ipairs(ranges_by_status) do
    for _, range in ipairs(ranges) do
      local last = merged_ranges[#merged_ranges]
      if last and last[2] + 1 == range[1] then last[2] = range[2]
      else merged_ranges[#merged_ranges + 1] = { range[1], range[2] } end
    end
  end
  for _, range in ipairs(merged_ranges) do has_common = has_common or (range[1] <= COMMON and range[2] >= COMMON) end
  if sessions == cjson.null then sessions = nil end
  if sessions and #sessions > FEW_SESSIONS then
    session_set = {}
    for _, name in ipairs(sessions) do session_set[name] = true end
  end
end

local function start_budget() spent_before = spent end
local function is_budget_spent() return spent - spent_before >= budget end

-- Whether a score lies in one of the query's ranges.
local function matches(score)
  local low, high = 1, #merged_ranges
  while low <= high do
    local middle = floor((low + high) / 2)
    if score < merged_ranges[middle][1] then high = middle - 1
    elseif score > merged_ranges[middle][2] then low = middle + 1
    else return true end
  end
  return false
end

-- The number of attendances that the index by status does not list and the query matches.
local function count_unlisted()
  if not unlisted then
    unlisted = has_common and tonumber(call('HGET', partition_prefix .. KEY_UNLISTED, 'attendances') or 0) or 0
  end
  return unlisted
end

-- Whether a source lacks attendances that the query matches.
local function is_partial(source) return source == by_status and count_unlisted() > 0 end

-- The score of a packed pair; nil if it has no attendance.
local function score_of(packed)
  local has_attendance, status, number = head_of_pair(packed)
  if has_attendance then return status * NUMBERS + number end
end

local function read_document(prefix, id)
  charge(DECODE_COST)
  return call('HGET', prefix .. KEY_DOC .. floor((byte(id, 1) * 256 + byte(id, 2)) / divisor), id)
end

-- Whether an attendance matches, read from its document; used if `session_set` is set.
local function document_matches(prefix, id)
  local packed = read_document(prefix, id)
  local score = packed and score_of(packed)
  return score and session_set[name_of(packed)] and matches(score) or false
end

local function sources_of(prefix)
  partition_prefix, by_status, unlisted = prefix, prefix .. KEY_BY_STATUS, nil
  if not sessions then return { prefix .. KEY_BY_STATUS } end
  local sources = {}
  for at, name in ipairs(sessions) do sources[at] = prefix .. KEY_IDS .. name end
  return sources
end

-- Calls visit(id, score, index of the source) for every matching entry; returns false, without a call, if the sources have
-- more than MAX_GATHERED entries in total.
local function gather(sources, visit)
  local sizes, total = {}, 0
  for at, source in ipairs(sources) do
    sizes[at] = call('ZCARD', source)
    total = total + sizes[at]
    if total > MAX_GATHERED then return false end
  end
  for at, source in ipairs(sources) do
    if sizes[at] > 0 then
      local rows = call('ZRANGE', source, '0', '-1', 'WITHSCORES')
      for entry = 1, #rows, 2 do
        if matches(tonumber(rows[entry + 1])) then visit(rows[entry], rows[entry + 1], at) end
      end
    end
  end
  return true
end

local function count_of(sources, ranges)
  local total = 0
  for _, range in ipairs(ranges) do
    local low, high = bounds(range)
    for _, source in ipairs(sources) do
      total = total + call('ZCOUNT', source, low, high)
      if is_partial(source) and range[1] <= COMMON and range[2] >= COMMON then total = total + count_unlisted() end
    end
  end
  return total
end

