-- The next values of a field that attendances in question have, and how many have each.
--
-- KEYS  watermarks, all of one slot or of one server
-- ARGV  1 field: 'number' or 'session'  2 1 or -1 (descending)  3 how many attendances they should come to
--       4 how many values to look at, at most  5 where to begin: JSON null or the value
--       6 whether that value itself is wanted: 1 or 0
--       7 windows: as for scan.lua  8 sessions: JSON list in the order asked for and from where to begin, or null for all
--       9 shift of document buckets
-- Returns for each key a list: state (where it is not 'live' nothing follows), the last value that was looked at (empty:
-- there is no more), then values and counts in turn, not all of them in order, and sessions perhaps from before the begin.
local call, byte, sub, floor, min, max = redis.call, string.byte, string.sub, math.floor, math.min, math.max
local up, wanted, budget = ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4])
local from, inclusive = cjson.decode(ARGV[5]), ARGV[6] == '1'
local windows, sessions = cjson.decode(ARGV[7]), cjson.decode(ARGV[8])
if from == cjson.null then from = nil end
if sessions == cjson.null then sessions = nil end
local NUMBERS, FEW, MOST, divisor = 2 ^ 32, 8, 256, 2 ^ tonumber(ARGV[9])

local function count_of(source)
  local count = 0
  for _, of_status in ipairs(windows) do
    for _, window in ipairs(of_status) do count = count + call('ZCOUNT', source, window[1], window[2]) end
  end
  return count
end

-- The nearest number that a source has in the windows of a status, at or beyond a number.
local function nearest(source, of_status, number)
  local first, last, step = 1, #of_status, 1
  if not up then first, last, step = last, first, -1 end
  for index = first, last, step do
    local low, high = of_status[index][1], of_status[index][2]
    local base = floor(low / NUMBERS) * NUMBERS
    if number and up then low = max(low, base + number) end
    if number and not up then high = min(high, base + number) end
    if low <= high then
      local found
      if up then found = call('ZRANGEBYSCORE', source, low, high, 'WITHSCORES', 'LIMIT', 0, 1)
      else found = call('ZREVRANGEBYSCORE', source, high, low, 'WITHSCORES', 'LIMIT', 0, 1) end
      if found[1] then return tonumber(found[2]) - base end
    end
  end
end

-- `add` says of a value's count whether that is enough.
local function numbers(sources, add)
  local number = from
  if from and not inclusive then number = up and from + 1 or from - 1 end
  while not number or number >= 0 do
    local best
    for _, of_status in ipairs(windows) do
      for _, source in ipairs(sources) do
        local found = nearest(source, of_status, number)
        if found and (not best or (up and found < best) or (not up and found > best)) then best = found end
      end
    end
    if not best then return end
    local count = 0
    for _, of_status in ipairs(windows) do
      local score = floor(of_status[1][1] / NUMBERS) * NUMBERS + best
      for _, window in ipairs(of_status) do
        if score >= window[1] and score <= window[2] then
          for _, source in ipairs(sources) do count = count + call('ZCOUNT', source, score, score) end
        end
      end
    end
    if add(best, count) then return end
    number = up and best + 1 or best - 1
  end
end

-- Those in question are fewer than a walk would pass over: their sessions are in their documents.
local function by_document(prefix, answer)
  local counts = {}
  for _, of_status in ipairs(windows) do
    for _, window in ipairs(of_status) do
      for _, id in ipairs(call('ZRANGEBYSCORE', prefix .. 'by-status', window[1], window[2])) do
        local packed = call('HGET', prefix .. 'doc:' .. floor((byte(id, 1) * 256 + byte(id, 2)) / divisor), id)
        local name = struct.unpack('>Hc0', packed, 20 + byte(packed, 11))
        counts[name] = (counts[name] or 0) + 1
      end
    end
  end
  for name, count in pairs(counts) do
    answer[#answer + 1] = name
    answer[#answer + 1] = count
  end
end

local function names(prefix, add, answer)
  if sessions then
    for _, name in ipairs(sessions) do
      if add(name, count_of(prefix .. 'ids:' .. name)) then return end
    end
    return
  end
  local total = count_of(prefix .. 'by-status')
  if total == 0 then return end
  if total <= budget and total * 2 < wanted * call('ZCARD', prefix .. 'sessions') / total then
    return by_document(prefix, answer)
  end
  local start, take = from and ((inclusive and '[' or '(') .. from), FEW
  while true do
    local some
    if up then some = call('ZRANGEBYLEX', prefix .. 'sessions', start or '-', '+', 'LIMIT', 0, take)
    else some = call('ZREVRANGEBYLEX', prefix .. 'sessions', start or '+', '-', 'LIMIT', 0, take) end
    for _, name in ipairs(some) do
      if add(name, count_of(prefix .. 'ids:' .. name)) then return end
    end
    if #some < take then return end
    start, take = '(' .. some[#some], min(MOST, take * 2)
  end
end

local answers = {}
for index, key in ipairs(KEYS) do
  local mark = call('HMGET', key, 'state', 'keys')
  local answer, seen, sum = { mark[1] or '' }, 0, 0
  answers[index] = answer
  if mark[1] == 'live' then
    local prefix = sub(key, 1, -10) .. mark[2] .. ':'
    answer[2] = ''
    local function add(value, count)
      if count > 0 then
        answer[#answer + 1] = value
        answer[#answer + 1] = count
        sum = sum + count
      end
      seen = seen + 1
      if sum >= wanted or seen >= budget then
        answer[2] = value
        return true
      end
    end
    if ARGV[1] == 'session' then
      names(prefix, add, answer)
    else
      local sources = { prefix .. 'by-status' }
      for at, name in ipairs(sessions or {}) do sources[at] = prefix .. 'ids:' .. name end
      numbers(sources, add)
    end
  end
end
return answers
