-- The order of bookingId and id.

-- The statuses of the query with their number of attendances (`size`) and of matching ones, the largest first.
local function statuses_by_size(prefix, sources)
  local statuses = {}
  for at, ranges in ipairs(ranges_by_status) do
    local status = { key = prefix .. KEY_BY_BOOKING .. floor(ranges[1][1] / NUMBERS) }
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

local function scan_partition(prefix, sources, place, answer) by_booking(prefix, sources, place and unhex(place), answer) end

