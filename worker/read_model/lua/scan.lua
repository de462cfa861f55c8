-- Keys of attendances in some order, as many as a page may need of each partition; what they say is asked for later.
--
-- KEYS  as for live.lua
-- ARGV  1 order: 'id', 'booking', 'session' or 'number'  2 1 or -1 (descending)  3 how many
--       4 units that a partition may spend; what was begun is ended, and each answer goes on at least by one step
--       5 windows: JSON list, for each status in question, of lists of [lowest score, highest score], all ascending
--       6 sessions: JSON list, or null for all  7 sessions not in question, JSON list; heeded in the order of sessions alone
--       8 shift of document buckets
--       9.. for each partition where to begin behind, JSON: null, hex of a key, or with 'number' for each status in
--         question, in the order of the windows, [score, hex of id]
-- Says of each partition segments. Each is a flat list: where to go on behind (the last key that was looked at; empty: there
-- is no more), then its keys, not all of them in order, some of them before where to begin: every key between the two places
-- is there. A key is the id, bookingId or sessionId with NUL and id, or with 'number' score and id in turn.
local order = ARGV[1]
ask_about(ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[8])
local denied = {}
for _, name in ipairs(cjson.decode(ARGV[7])) do denied[name] = true end
local FEW, SHORT, MANY_RUNS, MANY_RANGES = 8, 64, 24, 4
local BEHIND = string.rep('\255', 17) -- of every id
-- where more than this must be looked at for a share, half of it is found first: most pages need no more
local FAR = 300
-- what looking at one costs, measured in entries that an index is asked about: an id that is only handed on, an entry that is
-- looked up in a table of such, a document, a session, a run of ids
local ID, LOOKUP, DOCUMENT, SESSION, RUN = 0.5, 0.6, 3, 4, 8
-- so many units may be spent on what may come to nothing
local TRIAL = budget
-- whether no attendance is out of question
local whole = not sessions and #joined == 1 and joined[1][1] == 0 and joined[1][2] == 3 * NUMBERS - 1

-- Adds those of the keys whose id, their last 16 bytes, is in question, or among `known`; how many they are.
local function admit(prefix, sources, keys, found, known)
  local ids, before = keys, #found
  if known or #sources > FEW_SESSIONS then
    charge(ENTRY * #keys)
    for index = 1, #keys do
      local id = sub(keys[index], -16)
      if known and known[id] or not known and is_named(prefix, id) then found[#found + 1] = keys[index] end
    end
    return #found - before
  end
  if #keys[1] ~= 16 then
    ids = {}
    for index = 1, #keys do ids[index] = sub(keys[index], -16) end
  end
  local low, high, only = joined[1][1], joined[1][2], #joined == 1
  for _, source in ipairs(sources) do
    local scores = call('ZMSCORE', source, unpack(ids))
    for index = 1, #keys do
      local score = tonumber(scores[index] or -1)
      -- an id is in one source alone
      if score >= low and (score <= high or (not only and in_question(score))) then found[#found + 1] = keys[index] end
    end
  end
  return #found - before
end

-- How many there are about: counted in the first partition alone, since the others are much alike, and then 1 at least.
local counted = {}
local function about(sources, ranges)
  if not counted[ranges] then counted[ranges] = max(#KEYS > 1 and 1 or 0, count_of(sources, ranges)) end
  return counted[ranges]
end

-- Nothing where there are more than `most`.
local function all_ids(sources, ranges, most)
  local found = {}
  for _, range in ipairs(ranges) do
    local low, high = bounds(range)
    for _, source in ipairs(sources) do
      local ids = call('ZRANGEBYSCORE', source, low, high, 'LIMIT', '0', most + 1)
      if #found == 0 then found = ids else
        for at = 1, #ids do found[#found + 1] = ids[at] end
      end
      if #found > most then return end
    end
  end
  return found
end

-- A segment without an end, of keys in any order.
local function every(keys, answer)
  keys[#keys + 1] = keys[1]
  keys[1] = ''
  answer[#answer + 1] = keys
end

-- Of few distinct scores: each one's ids are in order. Nothing where there are more.
local function runs(sources, place, answer)
  local few, found, most, start = { '' }, {}, MANY_RUNS + #sources, spent
  for _, window in ipairs(joined) do
    for _, source in ipairs(sources) do
      local low, high = window[1], window[2]
      -- of many sources most hold few
      local ids = #sources > 1 and call('ZRANGEBYSCORE', source, low, high, 'LIMIT', '0', SHORT)
      if ids and #ids < SHORT then
        for at = 1, #ids do few[#few + 1] = ids[at] end
        low = high + 1
      end
      while low <= high do
        if #found == most or spent - start > TRIAL then return false end
        local rows
        if up then rows = call('ZRANGEBYSCORE', source, low, high, 'WITHSCORES', 'LIMIT', 0, place and 1 or many)
        else rows = call('ZREVRANGEBYSCORE', source, high, low, 'WITHSCORES', 'LIMIT', 0, place and 1 or many) end
        local score, run, at = tonumber(rows[2]), { '' }, 1
        if not score then break end
        if place then
          rows = by_score(source, { { score, score } }, { score, place }, many)
          for entry = 3, #rows, 2 do run[#run + 1] = rows[entry] end
        else
          while rows[at + 1] == rows[2] do
            run[#run + 1] = rows[at]
            at = at + 2
          end
        end
        if #run > many then run[1] = run[#run] end
        found[#found + 1] = run
        if up then low = score + 1 else high = score - 1 end
      end
    end
  end
  found[#found + 1] = few
  for _, ids in ipairs(found) do
    if #ids > 1 then answer[#answer + 1] = ids end
  end
  return true
end

local function by_id(prefix, sources, total, place, answer)
  local bucket, last, step = 0, floor(65535 / divisor), 1
  if not up then bucket, last, step = last, 0, -1 end
  if place then bucket = floor((byte(place, 1) * 256 + byte(place, 2)) / divisor) end
  local documents = max(1, call('HLEN', prefix .. 'doc:' .. bucket)) * 65536 / divisor
  local by_documents = #sources > FEW_SESSIONS
  local walk, all = (by_documents and DOCUMENT or #sources) * many * documents / total, ID * total
  local may_be_runs = not by_documents and #joined <= 2 * MANY_RUNS and min(walk, all) > RUN * MANY_RUNS
  if may_be_runs and runs(sources, place, answer) then return end
  local ids = all < walk and total <= TRIAL and all_ids(sources, joined, TRIAL)
  if ids then return every(ids, answer) end
  begin()
  local found, count = { '' }, 0
  while true do
    local keys = call('HKEYS', prefix .. 'doc:' .. bucket)
    for from = 1, #keys, CHUNK do
      local some = #keys <= CHUNK and keys or { unpack(keys, from, min(#keys, from + CHUNK - 1)) }
      count = count + admit(prefix, sources, some, found)
    end
    if bucket == last then break end
    if count >= many or is_over() then
      local edge = (up and bucket + 1 or bucket) * divisor
      found[1] = up and (struct.pack('>I2', edge) .. string.rep('\0', 14))
        or (struct.pack('>I2', edge - 1) .. string.rep('\255', 14))
      break
    end
    bucket = bucket + step
  end
  answer[#answer + 1] = found
end

-- Keys by the bookings (or sessions) that documents name.
local function by_document(prefix, ids, of_booking, answer)
  local keys = {}
  for at, id in ipairs(ids) do
    local packed = document(prefix, id)
    local start = 20 + byte(packed, 11)
    if of_booking then start = start + 2 + byte(packed, start) * 256 + byte(packed, start + 1) end
    local name = struct.unpack('>Hc0', packed, start)
    keys[at] = name .. '\0' .. id
  end
  every(keys, answer)
end

-- The statuses in question with how many are, in question and at all, the most first.
local function by_size(prefix, sources)
  local statuses = {}
  for at, ranges in ipairs(windows) do
    local of = { key = prefix .. 'by-booking:' .. floor(ranges[1][1] / NUMBERS) }
    of.size = call('ZCARD', of.key)
    -- no condition but the status
    of.all = not sessions and ranges[1][1] % NUMBERS == 0 and ranges[1][2] % NUMBERS == NUMBERS - 1
    of.total = of.all and of.size or min(of.size, about(sources, ranges))
    statuses[at] = of
  end
  table.sort(statuses, function(one, other) return one.total > other.total end)
  return statuses
end

local function by_booking(prefix, sources, place, answer)
  local statuses, known = by_size(prefix, sources), nil
  if not statuses[1].all then
    local size, total = 0, about(sources, joined)
    if total == 0 then return end
    for _, of in ipairs(statuses) do size = size + of.size end
    local passed = many * size / total
    local by_documents = DOCUMENT * total < LOOKUP * passed
    local most = by_documents and floor(TRIAL / DOCUMENT) or TRIAL
    local by_lookups = ID * total + LOOKUP * passed < (#sources > FEW_SESSIONS and DOCUMENT or #sources) * passed
    if total <= most and (by_documents or by_lookups) then
      local ids = all_ids(sources, joined, most)
      if ids and by_documents then return by_document(prefix, ids, true, answer) end
      if ids then
        known = {}
        for at = 1, #ids do known[ids[at]] = true end
      end
    end
  end
  begin()
  -- where the status that has the most ends: of the others no more is needed
  local edge
  for _, of in ipairs(statuses) do
    local from, take = place and '(' .. place, many * of.size / max(1, of.total)
    local wanted = take > FAR and math.ceil(many / 2) or many
    take = of.all and many or max(FEW, min(CHUNK, floor(take * 1.25 * wanted / many)))
    local found, count = { '' }, 0
    while of.total > 0 do
      local keys
      if up then keys = call('ZRANGEBYLEX', of.key, from or '-', edge and '[' .. edge or '+', 'LIMIT', 0, take)
      else keys = call('ZREVRANGEBYLEX', of.key, from or '+', edge and '[' .. edge or '-', 'LIMIT', 0, take) end
      if of.all then
        for at = 1, #keys do found[#found + 1] = keys[at] end
        count = count + #keys
      elseif #keys > 0 then
        count = count + admit(prefix, sources, keys, found, known)
      end
      if #keys < take then
        found[1] = edge or ''
        break
      end
      from = '(' .. keys[#keys]
      if count >= wanted or is_over() then
        found[1], edge = keys[#keys], keys[#keys]
        break
      end
    end
    if #found > 1 or found[1] ~= '' then answer[#answer + 1] = found end
  end
end

-- Names of sessions in order, `visit` says of each whether that is enough.
local function each_session(prefix, from, beyond, visit)
  if sessions then
    local first, last, step = 1, #sessions, 1
    if not up then first, last, step = last, first, -1 end
    for index = first, last, step do
      local name = sessions[index]
      local passed = from and ((name == from and beyond) or (name ~= from and less(name, from) == up))
      if not passed and visit(name) then return end
    end
    return
  end
  local start, take = from and ((beyond and '(' or '[') .. from), FEW
  while true do
    local names
    if up then names = call('ZRANGEBYLEX', prefix .. 'sessions', start or '-', '+', 'LIMIT', 0, take)
    else names = call('ZREVRANGEBYLEX', prefix .. 'sessions', start or '+', '-', 'LIMIT', 0, take) end
    for _, name in ipairs(names) do
      if not denied[name] and visit(name) then return end
    end
    if #names < take then return end
    start, take = '(' .. names[#names], min(CHUNK, take * 2)
  end
end

local function by_session(prefix, sources, total, place, answer)
  local from, id, beyond
  if place then
    from, id = string.match(place, '^(%Z*)%z(.*)$')
    beyond = id == (up and BEHIND or '')
  end
  local wanted = many
  if not sessions then
    local passed = many * call('ZCARD', prefix .. 'sessions') / total
    if passed * SESSION > FAR then wanted = math.ceil(many / 2) end
    local ids = DOCUMENT * total < min(TRIAL, SESSION * passed) and all_ids(sources, joined, floor(TRIAL / DOCUMENT))
    if ids then return by_document(prefix, ids, false, answer) end
  end
  local found, count = { '' }, 0
  answer[#answer + 1] = found
  local ranges, most = joined, tostring(budget + 1)
  each_session(prefix, from, beyond, function(name)
    local source, start, size = prefix .. 'ids:' .. name, name .. '\0', 0
    local rows = #ranges > MANY_RANGES
      and call('ZRANGEBYSCORE', source, joined[1][1], joined[#joined][2], 'WITHSCORES', 'LIMIT', '0', SHORT)
    local is_short = rows and #rows < 2 * SHORT
    for at = 1, is_short and #rows or 0, 2 do
      if in_question(tonumber(rows[at + 1])) then
        found[#found + 1] = start .. rows[at]
        size = size + 1
      end
    end
    for index = 1, is_short and 0 or #ranges do
      local low, high = bounds(ranges[index])
      local ids = call('ZRANGEBYSCORE', source, low, high, 'LIMIT', '0', most)
      for at = 1, #ids do found[#found + 1] = start .. ids[at] end
      size = size + #ids
      if size > budget then
        -- too many to take all of them
        for _ = 1, size do found[#found] = nil end
        local parts = {}
        by_id(prefix, { source }, count_of({ source }, joined), name == from and #id == 16 and id or nil, parts)
        for _, part in ipairs(parts) do
          for at = 1, #part do
            if at > 1 or part[1] ~= '' then part[at] = start .. part[at] end
          end
          answer[#answer + 1] = part
        end
        break
      end
    end
    count = count + size
    if count >= wanted or size > budget or is_over() then
      found[1] = start .. (up and BEHIND or '')
      return true
    end
  end)
end

-- Keys by number, of each status; of many sessions from the index of all, by their documents.
local function by_number(prefix, sources, place, answer)
  local function behind_place(at) return place and { place[at][1], unhex(place[at][2]) } end
  if #sources <= MANY_RUNS then
    local few = { '' }
    for _, source in ipairs(sources) do
      -- of many sources most hold few
      local rows = #sources > 1
        and call('ZRANGEBYSCORE', source, joined[1][1], joined[#joined][2], 'WITHSCORES', 'LIMIT', '0', SHORT)
      if rows and #rows < 2 * SHORT then
        for at = 1, #rows, 2 do
          if in_question(tonumber(rows[at + 1])) then
            few[#few + 1] = rows[at + 1]
            few[#few + 1] = rows[at]
          end
        end
      else
        for at, of_status in ipairs(windows) do
          local found = by_score(source, of_status, behind_place(at), many)
          if #found > 1 then answer[#answer + 1] = found end
        end
      end
    end
    if #few > 1 then answer[#answer + 1] = few end
    return
  end
  if count_of(sources, joined) <= budget then
    local all = { '' }
    for _, window in ipairs(joined) do
      local low, high = bounds(window)
      for _, source in ipairs(sources) do
        local rows = call('ZRANGEBYSCORE', source, low, high, 'WITHSCORES')
        for at = 1, #rows, 2 do
          all[#all + 1] = rows[at + 1]
          all[#all + 1] = rows[at]
        end
      end
    end
    answer[#answer + 1] = all
    return
  end
  for at, of_status in ipairs(windows) do
    local found, from = { '' }, behind_place(at)
    while true do
      local rows = by_score(prefix .. 'by-status', of_status, from, max(many, SHORT))
      for entry = 2, #rows, 2 do
        if is_named(prefix, rows[entry + 1]) then
          found[#found + 1] = rows[entry]
          found[#found + 1] = rows[entry + 1]
        end
      end
      if rows[1] == '' then break end
      if #found > 2 * many or is_over() then
        found[1] = rows[1]
        break
      end
      from = { tonumber(rows[#rows - 1]), rows[#rows] }
    end
    if #found > 1 or found[1] ~= '' then answer[#answer + 1] = found end
  end
end

-- All keys of sessions that have few; false where they have more.
local function of_small_sessions(prefix, sources, answer)
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
  if is_small and #ids > 0 then by_document(prefix, ids, true, answer)
  elseif #keys > 1 then answer[#answer + 1] = keys end
  return is_small
end

return of_partitions(function(prefix, answer, index)
  if sessions and #sessions == 0 then return end
  begin()
  local place, sources = cjson.decode(ARGV[8 + index]), sources_of(prefix)
  if sessions and of_small_sessions(prefix, sources, answer) then return end
  if place == cjson.null then place = nil end
  if order == 'number' then return by_number(prefix, sources, place, answer) end
  place = place and unhex(place)
  if order == 'booking' then return by_booking(prefix, sources, place, answer) end
  local total = whole and call('ZCARD', sources[1]) or about(sources, joined)
  local scan = order == 'id' and by_id or by_session
  if total > 0 then scan(prefix, sources, total, place, answer) end
end)
