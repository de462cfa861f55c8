-- The order of bookingId and id. A member of the index by booking is an attendance of a large booking, or stands for those that
-- the record of its booking has of the status.

-- Estimated number of attendances of a status, as `estimate`.
local whole_sizes = {}
local function whole_size(prefix, code)
  if not whole_sizes[code] then
    local low = code * NUMBERS
    local size = call('ZCOUNT', by_status, string.format('%.0f', low), string.format('%.0f', low + NUMBERS - 1))
    if code == 0 then size = size + tonumber(call('HGET', prefix .. KEY_UNLISTED, 'attendances') or 0) end
    whole_sizes[code] = size
  end
  return whole_sizes[code]
end

-- The statuses of the query with the number of members in their index by booking (`size`) and of matching attendances, the one
-- with most of these first.
local function statuses_by_size(prefix, sources)
  local statuses = {}
  for at, ranges in ipairs(ranges_by_status) do
    local code = floor(ranges[1][1] / NUMBERS)
    local status = { code = code, key = prefix .. KEY_BY_BOOKING .. code }
    status.size = call('ZCARD', status.key)
    -- the query has no condition other than the status
    status.is_whole = not sessions and ranges[1][1] % NUMBERS == 0 and ranges[1][2] % NUMBERS == NUMBERS - 1
    status.matching = status.size == 0 and 0 or estimate(sources, ranges)
    statuses[at] = status
  end
  table.sort(statuses, function(one, other) return one.matching > other.matching end)
  return statuses
end

-- Appends the keys of a member of the index of a status: itself, or those of the booking for which it stands. Returns the place
-- behind all of these keys.
local function expand(prefix, status, member, keys)
  local separator = string.find(member, '\0', 1, true)
  if #member - separator ~= 2 then
    keys[#keys + 1] = member
    return member
  end
  local name, beginning = sub(member, 1, separator - 1), sub(member, 1, separator)
  local record = call('HGET', prefix .. KEY_BOOKING .. byte(member, -2) * 256 + byte(member, -1), name)
  if record and not is_large(record) then
    charge(ENTRY_COST * (#record - 5) / 17)
    for at = head_of(record) + 1, #record, 17 do
      if byte(record, at) % 4 == status.code then keys[#keys + 1] = beginning .. sub(record, at + 1, at + 16) end
    end
  end
  return beginning .. (ascending and AFTER_ALL or BEFORE_ALL)
end

-- From the documents of all matching ids, if that is cheapest. Otherwise from the booking index of each status; its ids are
-- matched one by one, or looked up in a table of all matching ids.
local function by_booking(prefix, sources, place, place_member, answer)
  local statuses, id_set = statuses_by_size(prefix, sources), nil
  if not statuses[1].is_whole then
    local size, total = 0, estimate(sources, merged_ranges)
    if total == 0 then return end
    for _, status in ipairs(statuses) do size = size + whole_size(prefix, status.code) end
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
    -- members that have as many matching attendances as are wanted
    local from, take = place and '(' .. place, limit * status.size / max(1, status.matching)
    local target = take > FAR_KEYS and math.ceil(limit / 2) or limit
    take = max(FIRST_TAKE, min(CHUNK, math.ceil(take * 1.25 * target / limit)))
    local segment, count, keys = { '' }, 0, {}
    local function flush()
      if status.is_whole then
        for at = 1, #keys do segment[#segment + 1] = keys[at] end
        count = count + #keys
      elseif #keys > 0 then
        count = count + add_matching(prefix, sources, keys, segment, id_set)
      end
      keys = {}
    end
    -- the booking of the place may have attendances behind it, wherever its member stands
    local first = place_member and place_member ~= '' and status.matching > 0 and call('ZSCORE', status.key, place_member) and place_member
    if first then expand(prefix, status, first, keys) end
    while status.matching > 0 do
      local members, behind
      if ascending then members = call('ZRANGEBYLEX', status.key, from or '-', edge and '[' .. edge or '+', 'LIMIT', 0, take)
      else members = call('ZREVRANGEBYLEX', status.key, from or '+', edge and '[' .. edge or '-', 'LIMIT', 0, take) end
      for _, member in ipairs(members) do
        if member ~= first then behind = expand(prefix, status, member, keys) end
        if #keys >= CHUNK then flush() end
      end
      flush()
      if #members < take then
        segment[1] = edge or ''
        break
      end
      from = '(' .. members[take]
      if behind and (count >= target or is_budget_spent()) then
        segment[1], edge = behind, behind
        break
      end
    end
    if #segment > 1 or segment[1] ~= '' then answer[#answer + 1] = segment end
  end
end

local function scan_partition(prefix, sources, place, answer)
  by_booking(prefix, sources, place and unhex(place[1]), place and unhex(place[2]), answer)
end
