-- Of the orders in which an attendance may have to be found by its id; behind scan.lua.

-- The places in a list of ids of those that match, or are in `id_set` if that is given.
local function places_of_matching(prefix, sources, ids, id_set)
  local places = {}
  if id_set or #sources > FEW_SESSIONS then
    charge(ENTRY_COST * #ids)
    for at, id in ipairs(ids) do
      if id_set and id_set[id] or not id_set and document_matches(prefix, id) then places[#places + 1] = at end
    end
    return places
  end
  local low, high, is_one_range = merged_ranges[1][1], merged_ranges[1][2], #merged_ranges == 1
  for _, source in ipairs(sources) do
    local scores = call('ZMSCORE', source, unpack(ids))
    -- these ids are of attendances: what the index by status does not list has the score COMMON
    local unlisted_score = is_partial(source) and COMMON or -1
    for at = 1, #ids do
      local score = tonumber(scores[at] or unlisted_score)
      -- an id is in one source only
      if score >= low and (score <= high or (not is_one_range and matches(score))) then places[#places + 1] = at end
    end
  end
  return places
end

-- Estimated number of matching entries: counted in the first partition of the call, and assumed for its other partitions, which
-- are similar. It is at least 1 if the call has several partitions.
local estimates, FEWEST_MATCHES = {}, #KEYS > 1 and 1 or 0
local function estimate(sources, ranges)
  if not estimates[ranges] then estimates[ranges] = max(FEWEST_MATCHES, count_of(sources, ranges)) end
  return estimates[ranges]
end

-- The number of matching entries, or its estimate.
local function total_of(sources)
  return matches_all and call('ZCARD', sources[1]) + count_unlisted() or estimate(sources, merged_ranges)
end

-- The ids within the score ranges; nil if there are more than `max_ids`, or if the source does not list them all.
local function all_ids(sources, ranges, max_ids)
  if is_partial(sources[1]) then return end
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

