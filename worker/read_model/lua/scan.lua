-- Index keys of matching attendances in an order, as many as a page may need from each partition; no documents. This file holds
-- what the orders share; scan_<order>.lua behind it defines `scan_partition`, and scan_end.lua calls that for each partition.
--
-- KEYS  as in live.lua
-- ARGV  1 order: 'id', 'booking', 'session' or 'number'  2 1 or -1 (descending)  3 number of keys wanted from a partition
--       4 units that a partition may spend; a step that was started is finished, and every answer advances by a step or more
--       5 score ranges: JSON list with an item for each status of the query: a list of [lowest, highest score]; all ascending
--       6 sessions: JSON list, or null for all  7 excluded sessions: JSON list; applied in the order 'session' only
--       8 shift of document buckets
--       9.. for each partition the place to start after; empty: the begin. It is a key; with 'booking', if it has an id and the
--         booking is of this partition, followed by the last two bytes of the member that stands for the booking; with 'number' for
--         each status, in the order of the score ranges, a score (double, big endian), the length of an id (1 byte) and the id
-- Answers for each partition: segments. A segment is a flat list: the place to continue after (the last key that was read;
-- empty: there are no more), then keys. It has every matching key between the two places. Its keys may be unsorted, and some
-- may precede the start. A key is the id; or bookingId or sessionId, NUL and id; or, with 'number', two items: score and id.
local order = ARGV[1]
set_query(ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[8])
local denied = {}
for _, name in ipairs(cjson.decode(ARGV[7])) do denied[name] = true end
local FIRST_TAKE, SHORT, MANY_RUNS, MANY_RANGES = 8, 64, 24, 4
-- if more keys than this must be read for `limit` matching ones, only half as many are collected: most pages need no more
local FAR_KEYS = 300
-- estimated costs, in entries of a reply: an id that is returned, an attendance in the record of its booking, an id that is looked
-- up in a Lua table, a document, the index of a session, a run of ids with one score
local ID_COST, MARK_COST, LOOKUP_COST, DOCUMENT_COST, SESSION_COST, RUN_COST = 0.5, 0.3, 0.6, 3, 4, 8
-- units that may be spent on an attempt that may be discarded
local MAX_TRIAL = budget
-- whether every attendance matches
local matches_all = not sessions and #merged_ranges == 1 and merged_ranges[1][1] == 0 and merged_ranges[1][2] == 3 * NUMBERS - 1

-- Appends one segment with all matching keys, unsorted.
local function emit_unordered(keys, answer)
  keys[#keys + 1] = keys[1]
  keys[1] = ''
  answer[#answer + 1] = keys
end

-- Appends the keys of these ids, with the bookingId or sessionId from their documents.
local function emit_by_document(prefix, ids, is_booking, answer)
  local keys = {}
  for at, id in ipairs(ids) do
    local packed = read_document(prefix, id)
    keys[at] = name_of(packed, is_booking) .. '\0' .. id
  end
  emit_unordered(keys, answer)
end

-- Appends all matching keys if the sessions have few entries; returns false if they have more (see `gather`).
local function emit_small_sessions(prefix, sources, answer)
  local keys, ids = { '' }, {}
  local is_small = gather(sources, function(id, score, at)
    if order == 'booking' then
      ids[#ids + 1] = id
    elseif order == 'number' then
      keys[#keys + 1] = score
      keys[#keys + 1] = id
    else
      keys[#keys + 1] = order == 'id' and id or sessions[at] .. '\0' .. id
    end
  end)
  if is_small and #ids > 0 then emit_by_document(prefix, ids, true, answer)
  elseif #keys > 1 then answer[#answer + 1] = keys end
  return is_small
end

