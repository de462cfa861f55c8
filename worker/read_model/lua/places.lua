-- Of the scripts that answer with watermarks, and take places in JSON.

-- A watermark: fields and values alternating, with the server's time in ms as the field `now`.
local function watermark_of(key)
  local watermark, time = call('HGETALL', key), redis.call('TIME')
  watermark[#watermark + 1] = 'now'
  watermark[#watermark + 1] = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  return watermark
end

-- The bytes that a place has in hex.
local function unhex(text) return (string.gsub(text, '..', function(pair) return string.char(tonumber(pair, 16)) end)) end

