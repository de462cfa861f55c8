-- The next values of a field that attendances in question have, and how many have each.
--
-- KEYS  1 watermark
-- ARGV  1 field: 'number' or 'session'  2 1 or -1 (descending)  3 how many attendances they should come to
--       4 how many values to look at, at most  5 where to begin: JSON null or the value
--       6 whether that value itself is wanted: 1 or 0
--       7 windows: as for scan.lua  8 sessions: JSON list in the order asked for and from where to begin, or null for all
-- Returns state (where it is not 'live' nothing follows), the last value that was looked at (empty: there is no more), then
-- values and counts in turn.
local call, sub, floor = redis.call, string.sub, math.floor
local mark = call('HMGET', KEYS[1], 'state', 'keys')
if mark[1] ~= 'live' then return { mark[1] or '' } end
local prefix = sub(KEYS[1], 1, -10) .. mark[2] .. ':'
local up, wanted, budget = ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4])
local from, inclusive = cjson.decode(ARGV[5]), ARGV[6] == '1'
local windows, sessions = cjson.decode(ARGV[7]), cjson.decode(ARGV[8])
if from == cjson.null then from = nil end
if sessions == cjson.null then sessions = nil end
local NUMBERS, BY_STATUS, CHUNK = 2 ^ 32, prefix .. 'by-status', 128
local answer, seen, sum = { 'live', '' }, 0, 0

local function count_of(source)
  local count = 0
  for _, of_status in ipairs(windows) do
    for _, window in ipairs(of_status) do count = count + call('ZCOUNT', source, window[1], window[2]) end
  end
  return count
end

-- Whether that is enough.
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

if ARGV[1] == 'number' then
  local sources = { BY_STATUS }
  if sessions then
    for index, name in ipairs(sessions) do sources[index] = prefix .. 'ids:' .. name end
  end
  -- the nearest score in the windows of a status, at or beyond a number
  local function nearest(source, of_status, number)
    local first, last, step = 1, #of_status, 1
    if not up then first, last, step = last, first, -1 end
    for index = first, last, step do
      local low, high = of_status[index][1], of_status[index][2]
      local base = floor(low / NUMBERS) * NUMBERS
      if number and up then low = math.max(low, base + number) end
      if number and not up then high = math.min(high, base + number) end
      if low <= high then
        local found
        if up then found = call('ZRANGEBYSCORE', source, low, high, 'WITHSCORES', 'LIMIT', 0, 1)
        else found = call('ZREVRANGEBYSCORE', source, high, low, 'WITHSCORES', 'LIMIT', 0, 1) end
        if found[1] then return tonumber(found[2]) - base end
      end
    end
  end
  local number = from
  if from and not inclusive then number = up and from + 1 or from - 1 end
  while true do
    local best
    for _, of_status in ipairs(windows) do
      for _, source in ipairs(sources) do
        local found = nearest(source, of_status, number)
        if found and (not best or (up and found < best) or (not up and found > best)) then best = found end
      end
    end
    if not best then return answer end
    local count = 0
    for _, of_status in ipairs(windows) do
      local score = floor(of_status[1][1] / NUMBERS) * NUMBERS + best
      for _, window in ipairs(of_status) do
        if score >= window[1] and score <= window[2] then
          for _, source in ipairs(sources) do count = count + call('ZCOUNT', source, score, score) end
        end
      end
    end
    if add(best, count) then return answer end
    number = up and best + 1 or best - 1
    if number < 0 then return answer end
  end
end

if sessions then
  for _, name in ipairs(sessions) do
    if add(name, count_of(prefix .. 'ids:' .. name)) then return answer end
  end
  return answer
end
local start = from and ((inclusive and '[' or '(') .. from)
while true do
  local names
  if up then names = call('ZRANGEBYLEX', prefix .. 'sessions', start or '-', '+', 'LIMIT', 0, CHUNK)
  else names = call('ZREVRANGEBYLEX', prefix .. 'sessions', start or '+', '-', 'LIMIT', 0, CHUNK) end
  for _, name in ipairs(names) do
    if add(name, count_of(prefix .. 'ids:' .. name)) then return answer end
  end
  if #names < CHUNK then return answer end
  start = '(' .. names[#names]
end
