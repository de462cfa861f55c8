-- Keys of a partition's attendances in some order, as many as a page may need of them; what they say is asked for later.
--
-- KEYS  1 watermark
-- ARGV  1 order: 'id', 'booking' or 'number'  2 1 or -1 (descending)  3 how many  4 how many to look at, at most
--       5 where to begin behind, JSON: null, or by order {"id": hex}, {"booking": hex of bookingId, NUL, id}, or
--         {"number": list of [score, hex of id] for each status in question, in the order of the windows}
--       6 windows: JSON list, for each status in question, of lists of [lowest score, highest score], all ascending
--       7 sessions: JSON list, or null for all
--       8 shift of document buckets
-- Returns state (where it is not 'live' nothing follows), then segments. Each is a flat list: where to go on behind (the
-- last key that was looked at; empty: there is no more), then its keys, not all of them in order: every key that lies
-- before that place is there. A key is the id, the by-booking member, or with 'number' score and id in turn.
local call, byte, sub, floor, unpack_ = redis.call, string.byte, string.sub, math.floor, struct.unpack
local mark = call('HMGET', KEYS[1], 'state', 'keys')
if mark[1] ~= 'live' then return { mark[1] or '' } end
local prefix = sub(KEYS[1], 1, -10) .. mark[2] .. ':'
local order, up, many, budget = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4])
local after, windows, sessions = cjson.decode(ARGV[5]), cjson.decode(ARGV[6]), cjson.decode(ARGV[7])
local BY_STATUS, BY_BOOKING, NUMBERS = prefix .. 'by-status', prefix .. 'by-booking', 2 ^ 32
local MANY_RUNS, CHUNK = 24, 128
if after == cjson.null then after = nil end
if sessions == cjson.null then sessions = nil end

local function unhex(text) return (string.gsub(text, '..', function(pair) return string.char(tonumber(pair, 16)) end)) end

-- Lua compares strings by the server's locale; keys are in the order of their bytes
local function less(one, other)
  local shorter = math.min(#one, #other)
  for at = 1, shorter do
    local a, b = byte(one, at), byte(other, at)
    if a ~= b then return a < b end
  end
  return #one < #other
end

-- Rank of the first member with this score that is behind `member`, and the rank behind the last one with this score.
local function behind(key, score, member)
  local low = call('ZCOUNT', key, '-inf', '(' .. score)
  local stop = low + call('ZCOUNT', key, score, score)
  local high = stop
  while low < high do
    local middle = floor((low + high) / 2)
    if less(member, call('ZRANGE', key, middle, middle)[1]) then high = middle else low = middle + 1 end
  end
  return low, stop
end

-- Rank of the last member with this score that is before `member`, plus one.
local function before(key, score, member)
  local rank = behind(key, score, member)
  if rank > 0 then
    local at = call('ZRANGE', key, rank - 1, rank - 1, 'WITHSCORES')
    if at[1] == member and tonumber(at[2]) == score then rank = rank - 1 end
  end
  return rank
end

local sources = {}
if sessions then
  for index, name in ipairs(sessions) do sources[index] = prefix .. 'ids:' .. name end
else
  sources[1] = BY_STATUS
end

local answer = { 'live' }
local function segment(of) answer[#answer + 1] = of end

-- Keys by score within the windows of one status of one source, behind `place` {score, id}.
local function by_score(source, of_status, place)
  local found, wanted = { '' }, many
  local first, last, step = 1, #of_status, 1
  if not up then first, last, step = last, first, -1 end
  for index = first, last, step do
    local low, high = of_status[index][1], of_status[index][2]
    local start = call('ZCOUNT', source, '-inf', '(' .. low)
    local stop = start + call('ZCOUNT', source, low, high)
    if place and start < stop then
      -- a place beyond the window leaves it whole or nothing of it
      if up then start = math.max(start, (behind(source, place[1], place[2])))
      else stop = math.min(stop, before(source, place[1], place[2])) end
    end
    if start < stop and wanted == 0 then
      found[1] = found[#found - 1] .. ' ' .. found[#found]
      return found
    end
    if start < stop then
      local rows
      if up then rows = call('ZRANGE', source, start, math.min(stop, start + wanted) - 1, 'WITHSCORES')
      else
        local size = call('ZCARD', source)
        rows = call('ZREVRANGE', source, size - stop, size - math.max(start, stop - wanted) - 1, 'WITHSCORES')
      end
      for at = 1, #rows, 2 do
        found[#found + 1] = rows[at + 1]
        found[#found + 1] = rows[at]
      end
      wanted = wanted - #rows / 2
      if wanted == 0 and stop - start > #rows / 2 then
        found[1] = found[#found - 1] .. ' ' .. found[#found]
        return found
      end
    end
  end
  return found
end

local function each_window(visit)
  for _, of_status in ipairs(windows) do
    for _, window in ipairs(of_status) do visit(window[1], window[2]) end
  end
end

local total = 0
each_window(function(low, high)
  for _, source in ipairs(sources) do total = total + call('ZCOUNT', source, low, high) end
end)
if total == 0 then return answer end

-- Whether scores of ids (in a source) lie in a window.
local function admitted(score)
  if not score then return false end
  score = tonumber(score)
  for _, of_status in ipairs(windows) do
    for _, window in ipairs(of_status) do
      if score >= window[1] and score <= window[2] then return true end
    end
  end
  return false
end

-- Those of the keys whose id, their last 16 bytes, is in question.
local function admit(keys, found)
  local ids = {}
  for index, key in ipairs(keys) do ids[index] = sub(key, -16) end
  local taken = {}
  for _, source in ipairs(sources) do
    for index, score in ipairs(call('ZMSCORE', source, unpack(ids))) do
      if not taken[index] and admitted(score) then taken[index] = true end
    end
  end
  local count = 0
  for index, key in ipairs(keys) do
    if taken[index] then
      found[#found + 1] = key
      count = count + 1
    end
  end
  return count
end

local function all_ids()
  local found = { '' }
  each_window(function(low, high)
    for _, source in ipairs(sources) do
      for _, id in ipairs(call('ZRANGEBYSCORE', source, low, high)) do found[#found + 1] = id end
    end
  end)
  return found
end

if order == 'number' then
  for index, of_status in ipairs(windows) do
    local place = after and { after.number[index][1], unhex(after.number[index][2]) }
    for _, source in ipairs(sources) do
      local found = by_score(source, of_status, place)
      if #found > 1 then segment(found) end
    end
  end
  return answer
end

if order == 'id' then
  local place = after and unhex(after.id)
  if total <= 300 or (sessions and total <= budget) then
    segment(all_ids())
    return answer
  end
  -- the distinct scores in question: of each, ids are in order
  local runs = {}
  each_window(function(low, high)
    for _, source in ipairs(sources) do
      local from = low
      while from and #runs <= MANY_RUNS do
        local next_ = call('ZRANGEBYSCORE', source, from, high, 'WITHSCORES', 'LIMIT', 0, 1)
        if next_[1] then
          runs[#runs + 1] = { source, tonumber(next_[2]) }
          from = tonumber(next_[2]) + 1
        else
          from = nil
        end
      end
    end
  end)
  local bucket, last_bucket, step = 0, floor(65535 / 2 ^ tonumber(ARGV[8])), 1
  if not up then bucket, last_bucket, step = last_bucket, 0, -1 end
  if place then bucket = floor((byte(place, 1) * 256 + byte(place, 2)) / 2 ^ tonumber(ARGV[8])) end
  local in_bucket = math.max(1, call('HLEN', prefix .. 'doc:' .. bucket))
  local walked = many * in_bucket * (65536 / 2 ^ tonumber(ARGV[8])) / total
  if #runs <= MANY_RUNS and #runs * 15 < walked then
    for _, run in ipairs(runs) do
      local found = by_score(run[1], { { run[2], run[2] } }, place and { run[2], place })
      local ids = { found[1] ~= '' and found[#found] or '' }
      for at = 3, #found, 2 do ids[#ids + 1] = found[at] end
      if #ids > 1 then segment(ids) end
    end
    return answer
  end
  if total <= budget and total / 3 < walked then
    segment(all_ids())
    return answer
  end
  local found, count, seen = { '' }, 0, 0
  while true do
    local keys = call('HKEYS', prefix .. 'doc:' .. bucket)
    for from = 1, #keys, CHUNK do
      count = count + admit({ unpack(keys, from, math.min(#keys, from + CHUNK - 1)) }, found)
    end
    seen = seen + #keys + 1
    if bucket == last_bucket then break end
    if count >= many or seen >= budget then
      -- no id is at the edge itself: they have a version in their middle
      local edge = (up and bucket + 1 or bucket) * 2 ^ tonumber(ARGV[8])
      found[1] = up and (struct.pack('>I2', edge) .. string.rep('\0', 14))
        or (struct.pack('>I2', edge - 1) .. string.rep('\255', 14))
      break
    end
    bucket = bucket + step
  end
  segment(found)
  return answer
end

-- order == 'booking'
local place, size = after and unhex(after.booking), call('ZCARD', BY_BOOKING)
local whole = not sessions
for _, of_status in ipairs(windows) do
  if #of_status > 1 or of_status[1][1] % NUMBERS ~= 0 or of_status[1][2] % NUMBERS ~= NUMBERS - 1 then whole = false end
end
if not whole and total * 4 < many * size / total and total <= budget then
  -- fewer than a walk would pass over: their bookings are in their documents
  local found = { '' }
  for at, id in ipairs(all_ids()) do
    if at > 1 then
      local packed = call('HGET', prefix .. 'doc:' .. floor((byte(id, 1) * 256 + byte(id, 2)) / 2 ^ tonumber(ARGV[8])), id)
      local _, next_ = unpack_('>Hc0', packed, 20 + byte(packed, 11))
      found[#found + 1] = unpack_('>Hc0', packed, next_) .. '\0' .. id
    end
  end
  segment(found)
  return answer
end
for _, of_status in ipairs(windows) do
  local status = floor(of_status[1][1] / NUMBERS)
  local start = call('ZCOUNT', BY_BOOKING, '-inf', '(' .. status)
  local stop = start + call('ZCOUNT', BY_BOOKING, status, status)
  if place and start < stop then
    if up then start = behind(BY_BOOKING, status, place) else stop = before(BY_BOOKING, status, place) end
  end
  local found, count, seen = { '' }, 0, 0
  while start < stop do
    local take = math.min(stop - start, whole and many - count or CHUNK)
    local keys
    if up then
      keys = call('ZRANGE', BY_BOOKING, start, start + take - 1)
      start = start + take
    else
      keys = call('ZREVRANGE', BY_BOOKING, size - stop, size - stop + take - 1)
      stop = stop - take
    end
    if whole then
      for _, key in ipairs(keys) do found[#found + 1] = key end
      count = count + #keys
    else
      count = count + admit(keys, found)
    end
    seen = seen + #keys
    if start < stop and (count >= many or seen >= budget) then
      found[1] = keys[#keys]
      break
    end
  end
  if #found > 1 or found[1] ~= '' then segment(found) end
end
return answer
