-- Index keys of matching attendances in an order, as many as a page may need from each partition; no documents.
--
-- KEYS  as in live.lua
-- ARGV  1 order: 'id', 'booking', 'session' or 'number'  2 1 or -1 (descending)  3 number of keys wanted from a partition
--       4 units that a partition may spend; a step that was started is finished, and every answer advances by a step or more
--       5 score ranges: JSON list with an item for each status of the query: a list of [lowest, highest score]; all ascending
--       6 sessions: JSON list, or null for all  7 excluded sessions: JSON list; applied in the order 'session' only
--       8 shift of document buckets
--       9.. for each partition the place to start after, JSON: null, or the key in hex; with 'number' a list with
--         [score, id in hex] for each status, in the order of the score ranges
-- Answers for each partition: segments. A segment is a flat list: the place to continue after (the last key that was read;
-- empty: there are no more), then keys. It has every matching key between the two places. Its keys may be unsorted, and some
-- may precede the start. A key is the id; or bookingId or sessionId, NUL and id; or, with 'number', two items: score and id.
local order = ARGV[1]
set_query(ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[8])
local denied = {}
for _, name in ipairs(cjson.decode(ARGV[7])) do denied[name] = true end
local FIRST_TAKE, SHORT, MANY_RUNS, MANY_RANGES = 8, 64, 24, 4
local AFTER_EVERY_ID = string.rep('\255', 17)
-- if more keys than this must be read for `limit` matching ones, only half as many are collected: most pages need no more
local FAR_KEYS = 300
-- estimated costs, in entries of a reply: an id that is returned, an id that is looked up in a Lua table, a document, the index
-- of a session, a run of ids with one score
local ID_COST, LOOKUP_COST, DOCUMENT_COST, SESSION_COST, RUN_COST = 0.5, 0.6, 3, 4, 8
-- units that may be spent on an attempt that may be discarded
local MAX_TRIAL = budget
-- whether every attendance matches
local matches_all = not sessions and #merged_ranges == 1 and merged_ranges[1][1] == 0 and merged_ranges[1][2] == 3 * NUMBERS - 1

-- Appends the keys whose id, the last 16 bytes, matches, or is in `id_set` if that is given. Returns how many it appended.
local function add_matching(prefix, sources, keys, segment, id_set)
  local ids, before = keys, #segment
  if id_set or #sources > FEW_SESSIONS then
    charge(ENTRY_COST * #keys)
    for index = 1, #keys do
      local id = sub(keys[index], -16)
      if id_set and id_set[id] or not id_set and document_matches(prefix, id) then segment[#segment + 1] = keys[index] end
    end
    return #segment - before
  end
  if #keys[1] ~= 16 then
    ids = {}
    for index = 1, #keys do ids[index] = sub(keys[index], -16) end
  end
  local low, high, is_one_range = merged_ranges[1][1], merged_ranges[1][2], #merged_ranges == 1
  for _, source in ipairs(sources) do
    local scores = call('ZMSCORE', source, unpack(ids))
    for index = 1, #keys do
      local score = tonumber(scores[index] or -1)
      -- an id is in one source only
      if score >= low and (score <= high or (not is_one_range and matches(score))) then segment[#segment + 1] = keys[index] end
    end
  end
  return #segment - before
end

-- Estimated number of matching entries: counted in the first partition of the call, and assumed for its other partitions, which
-- are similar. It is at least 1 if the call has several partitions.
local estimates = {}
local function estimate(sources, ranges)
  if not estimates[ranges] then estimates[ranges] = max(#KEYS > 1 and 1 or 0, count_of(sources, ranges)) end
  return estimates[ranges]
end

-- The ids within the score ranges; nil if there are more than `max_ids`.
local function all_ids(sources, ranges, max_ids)
  local result = {}
  for _, range in ipairs(ranges) do
    local low, high = bounds(range)
    for _, source in ipairs(sources) do
      local ids = call('ZRANGEBYSCORE', source, low, high, 'LIMIT', '0', max_ids + 1)
      if #result == 0 then result = ids else
        for at = 1, #ids do result[#result + 1] = ids[at] end
      end
      if #result > max_ids then return end
    end
  end
  return result
end

-- Appends one segment with all matching keys, unsorted.
local function emit_unordered(keys, answer)
  keys[#keys + 1] = keys[1]
  keys[1] = ''
  answer[#answer + 1] = keys
end

-- If there are few distinct scores: a segment for each score, whose ids a sorted set holds in order. Returns false, and appends
-- nothing, if there are too many.
local function emit_runs(sources, place, answer)
  local unordered, segments, max_runs, spent_at_start = { '' }, {}, MANY_RUNS + #sources, spent
  for _, range in ipairs(merged_ranges) do
    for _, source in ipairs(sources) do
      local low, high = range[1], range[2]
      -- with several sources, most have few matching entries: one command reads them
      local ids = #sources > 1 and call('ZRANGEBYSCORE', source, low, high, 'LIMIT', '0', SHORT)
      if ids and #ids < SHORT then
        for at = 1, #ids do unordered[#unordered + 1] = ids[at] end
        low = high + 1
      end
      while low <= high do
        if #segments == max_runs or spent - spent_at_start > MAX_TRIAL then return false end
        local rows
        if ascending then rows = call('ZRANGEBYSCORE', source, low, high, 'WITHSCORES', 'LIMIT', 0, place and 1 or limit)
        else rows = call('ZREVRANGEBYSCORE', source, high, low, 'WITHSCORES', 'LIMIT', 0, place and 1 or limit) end
        local score, run, at = tonumber(rows[2]), { '' }, 1
        if not score then break end
        if place then
          rows = read_by_score(source, { { score, score } }, { score, place }, limit)
          for entry = 3, #rows, 2 do run[#run + 1] = rows[entry] end
        else
          while rows[at + 1] == rows[2] do
            run[#run + 1] = rows[at]
            at = at + 2
          end
        end
        if #run > limit then run[1] = run[#run] end
        segments[#segments + 1] = run
        if ascending then low = score + 1 else high = score - 1 end
      end
    end
  end
  segments[#segments + 1] = unordered
  for _, segment in ipairs(segments) do
    if #segment > 1 then answer[#answer + 1] = segment end
  end
  return true
end

-- The cheapest of: runs of equal scores, all matching ids at once, or the document buckets, which are in the order of the ids.
local function by_id(prefix, sources, total, place, answer)
  local bucket, last, step = 0, floor(65535 / divisor), 1
  if not ascending then bucket, last, step = last, 0, -1 end
  if place then bucket = floor((byte(place, 1) * 256 + byte(place, 2)) / divisor) end
  local documents = max(1, call('HLEN', prefix .. 'doc:' .. bucket)) * 65536 / divisor
  local by_documents = #sources > FEW_SESSIONS
  local bucket_cost, ids_cost = (by_documents and DOCUMENT_COST or #sources) * limit * documents / total, ID_COST * total
  local may_be_runs = not by_documents and #merged_ranges <= 2 * MANY_RUNS
    and min(bucket_cost, ids_cost) > RUN_COST * MANY_RUNS
  if may_be_runs and emit_runs(sources, place, answer) then return end
  local ids = ids_cost < bucket_cost and total <= MAX_TRIAL and all_ids(sources, merged_ranges, MAX_TRIAL)
  if ids then return emit_unordered(ids, answer) end
  start_budget()
  local segment, count = { '' }, 0
  while true do
    local keys = call('HKEYS', prefix .. 'doc:' .. bucket)
    for from = 1, #keys, CHUNK do
      local chunk = #keys <= CHUNK and keys or { unpack(keys, from, min(#keys, from + CHUNK - 1)) }
      count = count + add_matching(prefix, sources, chunk, segment)
    end
    if bucket == last then break end
    if count >= limit or is_budget_spent() then
      local edge = (ascending and bucket + 1 or bucket) * divisor
      segment[1] = ascending and (struct.pack('>I2', edge) .. string.rep('\0', 14))
        or (struct.pack('>I2', edge - 1) .. string.rep('\255', 14))
      break
    end
    bucket = bucket + step
  end
  answer[#answer + 1] = segment
end

-- Appends the keys of these ids, with the bookingId or sessionId from their documents.
local function emit_by_document(prefix, ids, is_booking, answer)
  local keys = {}
  for at, id in ipairs(ids) do
    local packed = read_document(prefix, id)
    local start = 20 + byte(packed, 11)
    if is_booking then start = start + 2 + byte(packed, start) * 256 + byte(packed, start + 1) end
    local name = struct.unpack('>Hc0', packed, start)
    keys[at] = name .. '\0' .. id
  end
  emit_unordered(keys, answer)
end

-- The statuses of the query with their number of attendances (`size`) and of matching ones, the largest first.
local function statuses_by_size(prefix, sources)
  local statuses = {}
  for at, ranges in ipairs(ranges_by_status) do
    local status = { key = prefix .. 'by-booking:' .. floor(ranges[1][1] / NUMBERS) }
    status.size = call('ZCARD', status.key)
    -- the query has no condition other than the status
    status.is_whole = not sessions and ranges[1][1] % NUMBERS == 0 and ranges[1][2] % NUMBERS == NUMBERS - 1
    status.matching = status.is_whole and status.size or min(status.size, estimate(sources, ranges))
    statuses[at] = status
  end
  table.sort(statuses, function(one, other) return one.matching > other.matching end)
  return statuses
end

-- From the documents of all matching ids, if that is cheapest. Otherwise from the booking index of each status; its ids are
-- matched one by one, or looked up in a table of all matching ids.
local function by_booking(prefix, sources, place, answer)
  local statuses, id_set = statuses_by_size(prefix, sources), nil
  if not statuses[1].is_whole then
    local size, total = 0, estimate(sources, merged_ranges)
    if total == 0 then return end
    for _, status in ipairs(statuses) do size = size + status.size end
    local scanned = limit * size / total
    local by_documents = DOCUMENT_COST * total < LOOKUP_COST * scanned
    local max_ids = by_documents and floor(MAX_TRIAL / DOCUMENT_COST) or MAX_TRIAL
    local by_lookups = ID_COST * total + LOOKUP_COST * scanned
      < (#sources > FEW_SESSIONS and DOCUMENT_COST or #sources) * scanned
    if total <= max_ids and (by_documents or by_lookups) then
      local ids = all_ids(sources, merged_ranges, max_ids)
      if ids and by_documents then return emit_by_document(prefix, ids, true, answer) end
      if ids then
        id_set = {}
        for at = 1, #ids do id_set[ids[at]] = true end
      end
    end
  end
  start_budget()
  -- where the previous status, which has more keys, stopped: the others need not be read further
  local edge
  for _, status in ipairs(statuses) do
    local from, take = place and '(' .. place, limit * status.size / max(1, status.matching)
    local target = take > FAR_KEYS and math.ceil(limit / 2) or limit
    take = status.is_whole and limit or max(FIRST_TAKE, min(CHUNK, floor(take * 1.25 * target / limit)))
    local segment, count = { '' }, 0
    while status.matching > 0 do
      local keys
      if ascending then keys = call('ZRANGEBYLEX', status.key, from or '-', edge and '[' .. edge or '+', 'LIMIT', 0, take)
      else keys = call('ZREVRANGEBYLEX', status.key, from or '+', edge and '[' .. edge or '-', 'LIMIT', 0, take) end
      if status.is_whole then
        for at = 1, #keys do segment[#segment + 1] = keys[at] end
        count = count + #keys
      elseif #keys > 0 then
        count = count + add_matching(prefix, sources, keys, segment, id_set)
      end
      if #keys < take then
        segment[1] = edge or ''
        break
      end
      from = '(' .. keys[#keys]
      if count >= target or is_budget_spent() then
        segment[1], edge = keys[#keys], keys[#keys]
        break
      end
    end
    if #segment > 1 or segment[1] ~= '' then answer[#answer + 1] = segment end
  end
end

-- Calls visit(name) for session names in order, from `from` on (after it if `is_exclusive`), until it returns true.
local function visit_sessions(prefix, from, is_exclusive, visit)
  if sessions then
    local first, last, step = 1, #sessions, 1
    if not ascending then first, last, step = last, first, -1 end
    for index = first, last, step do
      local name = sessions[index]
      local is_before = from and ((name == from and is_exclusive) or (name ~= from and less(name, from) == ascending))
      if not is_before and visit(name) then return end
    end
    return
  end
  local start, take = from and ((is_exclusive and '(' or '[') .. from), FIRST_TAKE
  while true do
    local names
    if ascending then names = call('ZRANGEBYLEX', prefix .. 'sessions', start or '-', '+', 'LIMIT', 0, take)
    else names = call('ZREVRANGEBYLEX', prefix .. 'sessions', start or '+', '-', 'LIMIT', 0, take) end
    for _, name in ipairs(names) do
      if not denied[name] and visit(name) then return end
    end
    if #names < take then return end
    start, take = '(' .. names[#names], min(CHUNK, take * 2)
  end
end

-- From the documents of all matching ids, if that is cheapest. Otherwise from the index of each session in turn.
local function by_session(prefix, sources, total, place, answer)
  local from, id, is_exclusive
  if place then
    from, id = string.match(place, '^(%Z*)%z(.*)$')
    is_exclusive = id == (ascending and AFTER_EVERY_ID or '')
  end
  local target = limit
  if not sessions then
    local scanned = limit * call('ZCARD', prefix .. 'sessions') / total
    if scanned * SESSION_COST > FAR_KEYS then target = math.ceil(limit / 2) end
    local ids = DOCUMENT_COST * total < min(MAX_TRIAL, SESSION_COST * scanned)
      and all_ids(sources, merged_ranges, floor(MAX_TRIAL / DOCUMENT_COST))
    if ids then return emit_by_document(prefix, ids, false, answer) end
  end
  local segment, count = { '' }, 0
  answer[#answer + 1] = segment
  local ranges, max_ids = merged_ranges, tostring(budget + 1)
  visit_sessions(prefix, from, is_exclusive, function(name)
    local source, key_prefix, size = prefix .. 'ids:' .. name, name .. '\0', 0
    local rows = #ranges > MANY_RANGES and call('ZRANGEBYSCORE', source, merged_ranges[1][1],
      merged_ranges[#merged_ranges][2], 'WITHSCORES', 'LIMIT', '0', SHORT)
    local is_short = rows and #rows < 2 * SHORT
    for at = 1, is_short and #rows or 0, 2 do
      if matches(tonumber(rows[at + 1])) then
        segment[#segment + 1] = key_prefix .. rows[at]
        size = size + 1
      end
    end
    for index = 1, is_short and 0 or #ranges do
      local low, high = bounds(ranges[index])
      local ids = call('ZRANGEBYSCORE', source, low, high, 'LIMIT', '0', max_ids)
      for at = 1, #ids do segment[#segment + 1] = key_prefix .. ids[at] end
      size = size + #ids
      if size > budget then
        -- too many to return all of them: remove them and scan this session by id
        for _ = 1, size do segment[#segment] = nil end
        local parts = {}
        by_id(prefix, { source }, count_of({ source }, merged_ranges), name == from and #id == 16 and id or nil, parts)
        for _, part in ipairs(parts) do
          for at = 1, #part do
            if at > 1 or part[1] ~= '' then part[at] = key_prefix .. part[at] end
          end
          answer[#answer + 1] = part
        end
        break
      end
    end
    count = count + size
    if count >= target or size > budget or is_budget_spent() then
      segment[1] = key_prefix .. (ascending and AFTER_EVERY_ID or '')
      return true
    end
  end)
end

-- From the sources, for each status. With many sessions: all matching entries if they are few, otherwise from the index of all
-- attendances, each matched by its document.
local function by_number(prefix, sources, place, answer)
  local function start_of(status_index) return place and { place[status_index][1], unhex(place[status_index][2]) } end
  if #sources <= MANY_RUNS then
    local unordered = { '' }
    for _, source in ipairs(sources) do
      -- with several sources, most have few matching entries: one command reads them
      local rows = #sources > 1 and call('ZRANGEBYSCORE', source, merged_ranges[1][1],
        merged_ranges[#merged_ranges][2], 'WITHSCORES', 'LIMIT', '0', SHORT)
      if rows and #rows < 2 * SHORT then
        for at = 1, #rows, 2 do
          if matches(tonumber(rows[at + 1])) then
            unordered[#unordered + 1] = rows[at + 1]
            unordered[#unordered + 1] = rows[at]
          end
        end
      else
        for at, ranges in ipairs(ranges_by_status) do
          local segment = read_by_score(source, ranges, start_of(at), limit)
          if #segment > 1 then answer[#answer + 1] = segment end
        end
      end
    end
    if #unordered > 1 then answer[#answer + 1] = unordered end
    return
  end
  if count_of(sources, merged_ranges) <= budget then
    local unordered = { '' }
    for _, range in ipairs(merged_ranges) do
      local low, high = bounds(range)
      for _, source in ipairs(sources) do
        local rows = call('ZRANGEBYSCORE', source, low, high, 'WITHSCORES')
        for at = 1, #rows, 2 do
          unordered[#unordered + 1] = rows[at + 1]
          unordered[#unordered + 1] = rows[at]
        end
      end
    end
    answer[#answer + 1] = unordered
    return
  end
  for at, ranges in ipairs(ranges_by_status) do
    local segment, from = { '' }, start_of(at)
    while true do
      local rows = read_by_score(prefix .. 'by-status', ranges, from, max(limit, SHORT))
      for entry = 2, #rows, 2 do
        if document_matches(prefix, rows[entry + 1]) then
          segment[#segment + 1] = rows[entry]
          segment[#segment + 1] = rows[entry + 1]
        end
      end
      if rows[1] == '' then break end
      if #segment > 2 * limit or is_budget_spent() then
        segment[1] = rows[1]
        break
      end
      from = { tonumber(rows[#rows - 1]), rows[#rows] }
    end
    if #segment > 1 or segment[1] ~= '' then answer[#answer + 1] = segment end
  end
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

return of_partitions(function(prefix, answer, index)
  if sessions and #sessions == 0 then return end
  start_budget()
  local place, sources = cjson.decode(ARGV[8 + index]), sources_of(prefix)
  if sessions and emit_small_sessions(prefix, sources, answer) then return end
  if place == cjson.null then place = nil end
  if order == 'number' then return by_number(prefix, sources, place, answer) end
  place = place and unhex(place)
  if order == 'booking' then return by_booking(prefix, sources, place, answer) end
  local total = matches_all and call('ZCARD', sources[1]) or estimate(sources, merged_ranges)
  local scan = order == 'id' and by_id or by_session
  if total > 0 then scan(prefix, sources, total, place, answer) end
end)
