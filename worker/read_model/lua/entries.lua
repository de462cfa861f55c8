-- Reads the indexes of attendances; shared by scan.lua, numbers.lua, count.lua and ranked.lua.
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

local function unhex(text) return (string.gsub(text, '..', function(pair) return string.char(tonumber(pair, 16)) end)) end

-- Compares bytes, as sorted sets do; Lua's `<` uses the server's locale.
local function less(one, other)
  for at = 1, min(#one, #other) do
    local a, b = byte(one, at), byte(other, at)
    if a ~= b then return a < b end
  end
  return #one < #other
end

-- The position of an id among all possible ids, 0 to 2^24; ids are uniformly distributed.
local function position_of(id)
  local one, two, three = byte(id, 1, 3)
  return (one or 0) * 65536 + (two or 0) * 256 + (three or 0)
end

-- Rank of the first member after (score, member), or at it if `inclusive`. Pass the score as text where a number, converted to
-- text, would lose digits.
local function rank_after(key, score, member, inclusive)
  local stored_score = call('ZSCORE', key, member)
  if stored_score and tonumber(stored_score) == tonumber(score) then
    return call('ZRANK', key, member) + (inclusive and 0 or 1)
  end
  local low = call('ZCOUNT', key, '-inf', '(' .. score)
  local high = low + call('ZCOUNT', key, score, score)
  -- interpolation search by position for a few steps, then binary search
  local target, low_position, high_position, guesses = position_of(member), 0, 2 ^ 24, 0
  while low < high do
    local middle = floor((low + high) / 2)
    if guesses < 6 and high_position > low_position then
      middle = low
        + min(high - low - 1, max(0, floor((target - low_position) / (high_position - low_position) * (high - low))))
    end
    guesses = guesses + 1
    local candidate = call('ZRANGE', key, middle, middle)[1]
    if less(member, candidate) then high, high_position = middle, position_of(candidate)
    else low, low_position = middle + 1, position_of(candidate) end
  end
  return low
end

-- Whether no id comes after a place.
local function is_past_all(place) return place == (ascending and AFTER_ALL or BEFORE_ALL) end

-- The number of attendances that the index by status does not list and the query matches.
local function count_unlisted()
  if not unlisted then
    unlisted = has_common and tonumber(call('HGET', partition_prefix .. KEY_UNLISTED, 'attendances') or 0) or 0
  end
  return unlisted
end

-- Whether a source lacks attendances that the query matches.
local function is_partial(source) return source == by_status and count_unlisted() > 0 end

-- Calls visit(ids and packed pairs alternating) for buckets of documents in the order of ids, from that of an id on, until it
-- returns true or the budget is spent. Returns the place to continue after: less than every id that was not read; nil: there are
-- no more.
local function visit_buckets(prefix, from, visit)
  local bucket, last, step = 0, floor(65535 / divisor), 1
  if not ascending then bucket, last, step = last, 0, -1 end
  if from then bucket = floor(((byte(from, 1) or 0) * 256 + (byte(from, 2) or 0)) / divisor) end
  while true do
    local is_enough = visit(call('HGETALL', prefix .. KEY_DOC .. bucket))
    if bucket == last then return end
    if is_enough or is_budget_spent() then
      if ascending then return struct.pack('>I2', (bucket + 1) * divisor) .. string.rep('\0', 14) end
      return struct.pack('>I2', bucket * divisor - 1) .. string.rep('\255', 14)
    end
    bucket = bucket + step
  end
end

-- The score of a packed pair; nil if it has no attendance.
local function score_of(packed)
  local has_attendance, status, number = head_of_pair(packed)
  if has_attendance then return status * NUMBERS + number end
end

-- Appends attendances with the score COMMON to a segment, in buckets after an id, about `count` of them. Returns how many, and the
-- place to continue after; nil: there are no more.
local function read_common(segment, after, count)
  local found = 0
  local place = visit_buckets(partition_prefix, after, function(rows)
    for at = 1, #rows, 2 do
      if score_of(rows[at + 1]) == COMMON then
        segment[#segment + 1] = tostring(COMMON)
        segment[#segment + 1] = rows[at]
        found = found + 1
      end
    end
    return found >= count
  end)
  return found, place
end

-- The ranges with COMMON as one of its own.
local function split_common(ranges)
  if ranges.split then return ranges.split end
  local split = {}
  for _, range in ipairs(ranges) do
    local low, high = range[1], range[2]
    if low <= COMMON and high >= COMMON then
      if low < COMMON then split[#split + 1] = { low, COMMON - 1 } end
      split[#split + 1] = { COMMON, COMMON, is_common = true }
      if high > COMMON then split[#split + 1] = { COMMON + 1, high } end
    else
      split[#split + 1] = range
    end
  end
  ranges.split = split
  return split
end

-- Up to `count` entries with scores in some ranges, or a few more, after `after` {score, id}. Returns a segment (see scan.lua): the
-- place to continue after, then scores and ids alternating.
local function read_by_score(source, ranges, after, count)
  local segment = { '' }
  if is_partial(source) then ranges = split_common(ranges) end
  local first, last, step = 1, #ranges, 1
  if not ascending then first, last, step = last, first, -1 end
  for index = first, last, step do
    local low, high = ranges[index][1], ranges[index][2]
    local rows = {}
    if ranges[index].is_common then
      if not after or after[1] ~= low and (after[1] < low) == ascending or after[1] == low and not is_past_all(after[2]) then
        local found, place = read_common(segment, after and after[1] == low and after[2] or nil, count)
        count = count - found
        if place then
          segment[1] = COMMON .. ' ' .. place
          break
        end
        if count <= 0 then
          segment[1] = COMMON .. ' ' .. (ascending and AFTER_ALL or BEFORE_ALL)
          break
        end
      end
    elseif after and after[1] >= low and after[1] <= high then
      if ascending then
        local start = rank_after(source, after[1], after[2])
        rows = call('ZRANGE', source, start, start + count - 1, 'WITHSCORES')
      else
        local start = call('ZCARD', source) - rank_after(source, after[1], after[2], true)
        rows = call('ZREVRANGE', source, start, start + count - 1, 'WITHSCORES')
      end
    elseif not after or (ascending and after[1] < low) or (not ascending and after[1] > high) then
      local from, to = bounds(ranges[index])
      if ascending then rows = call('ZRANGEBYSCORE', source, from, to, 'WITHSCORES', 'LIMIT', '0', count)
      else rows = call('ZREVRANGEBYSCORE', source, to, from, 'WITHSCORES', 'LIMIT', '0', count) end
    end
    for at = 1, #rows, 2 do
      local score = tonumber(rows[at + 1])
      if score < low or score > high then break end
      segment[#segment + 1] = rows[at + 1]
      segment[#segment + 1] = rows[at]
      count = count - 1
    end
    if count <= 0 then
      segment[1] = segment[#segment - 1] .. ' ' .. segment[#segment]
      break
    end
  end
  return segment
end

local function read_document(prefix, id)
  charge(DECODE_COST)
  return call('HGET', prefix .. KEY_DOC .. floor((byte(id, 1) * 256 + byte(id, 2)) / divisor), id)
end

-- Whether an attendance matches, read from its document; used if `session_set` is set.
local function document_matches(prefix, id)
  local packed = read_document(prefix, id)
  local score = packed and score_of(packed)
  return score and session_set[session_of(packed)] and matches(score) or false
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

