-- The order of the ids, and the order inside a large session.

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
  local documents = max(1, call('HLEN', prefix .. KEY_DOC .. bucket)) * 65536 / divisor
  local by_documents = #sources > FEW_SESSIONS
  local bucket_cost, ids_cost = (by_documents and DOCUMENT_COST or #sources) * limit * documents / total, ID_COST * total
  local may_be_runs = not by_documents and not is_partial(sources[1]) and #merged_ranges <= 2 * MANY_RUNS
    and min(bucket_cost, ids_cost) > RUN_COST * MANY_RUNS
  if may_be_runs and emit_runs(sources, place, answer) then return end
  local ids = ids_cost < bucket_cost and total <= MAX_TRIAL and all_ids(sources, merged_ranges, MAX_TRIAL)
  if ids then return emit_unordered(ids, answer) end
  start_budget()
  local segment, count = { '' }, 0
  answer[#answer + 1] = segment
  if is_partial(sources[1]) then
    segment[1] = visit_buckets(prefix, place, function(rows)
      for at = 1, #rows, 2 do
        local score = score_of(rows[at + 1])
        if score and matches(score) then
          segment[#segment + 1] = rows[at]
          count = count + 1
        end
      end
      return count >= limit
    end) or ''
    return
  end
  while true do
    local ids = call('HKEYS', prefix .. KEY_DOC .. bucket)
    for from = 1, #ids, CHUNK do
      local chunk = #ids <= CHUNK and ids or { unpack(ids, from, min(#ids, from + CHUNK - 1)) }
      local places = places_of_matching(prefix, sources, chunk)
      for _, at in ipairs(places) do segment[#segment + 1] = chunk[at] end
      count = count + #places
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
end

local function scan_partition(prefix, sources, place, answer)
  local total = total_of(sources)
  if total > 0 then by_id(prefix, sources, total, place, answer) end
end

