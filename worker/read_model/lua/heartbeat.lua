-- The writer's heartbeat, sent every second: that it is alive, the end offsets of its topics, and estimates of some sources.
--
-- KEYS  1 watermark
-- ARGV  1 generation  2 epoch  3 and 4 time since Kafka confirmed the end of events and of bookings, ms (empty: not yet)
--       5 when these read models were last known to hold everything that Kafka had, ms (empty: not known)
--       6 seq of the caller's last write that was acknowledged
--       7 prefix of the key generation of the estimates  8 estimates, each: length (2), source, when its last dead letter was
--         received if nothing else is known of it (8, double; ms, otherwise 0), length (2), the packed estimate (empty: none)
--       9.. field, value pairs of the watermark to set
-- Times are those of this server's clock, which readers compare them with; the clocks of workers and readers do not matter.
-- Returns the time, ms, or 'fenced', 'gone' or 'gap' (acknowledged writes are lost: the server went back to older data).
local call = redis.call
local watermark = call('HMGET', KEYS[1], 'generation', 'epoch', 'seq', 'keys')
if not watermark[2] then return 'gone' end
if watermark[2] ~= ARGV[2] then return 'fenced' end
if watermark[1] ~= ARGV[1] then return 'gone' end
if tonumber(watermark[3]) < tonumber(ARGV[6]) then return 'gap' end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function time_before(age) return string.format('%.0f', now - age) end
call('HSET', KEYS[1], 'writtenAt', time_before(0), unpack(ARGV, 9))
for index, topic in ipairs({ 'events', 'bookings' }) do
  local age = ARGV[2 + index]
  if age ~= '' then call('HSET', KEYS[1], topic .. '.confirmedAt', time_before(age)) end
end
if ARGV[5] ~= '' then call('HSET', KEYS[1], 'freshAt', string.format('%.0f', math.min(now, ARGV[5]))) end
local prefix, estimates = ARGV[7], ARGV[8]
-- during a repair there are none: its keys begin with none
if estimates ~= '' and prefix == string.sub(KEYS[1], 1, -#KEY_WATERMARK - 1) .. (watermark[4] or '') .. ':' then
  local at, size = 1, #estimates
  while at <= size do
    local source, dead_at, packed, next_ = struct.unpack('>Hc0dHc0', estimates, at)
    at = next_
    if packed == '' then call('HDEL', prefix .. KEY_ESTIMATES, source) else call('HSET', prefix .. KEY_ESTIMATES, source, packed) end
    if dead_at > 0 then call('ZADD', prefix .. KEY_DEAD_ONLY, dead_at, source) else call('ZREM', prefix .. KEY_DEAD_ONLY, source) end
  end
end
return now
