-- Reads entries in the order of score and id.

-- Whether no id comes after a place.
local function is_past_all(place) return place == (ascending and AFTER_ALL or BEFORE_ALL) end

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

