-- Changes fields of the key that names the live namespace in one step, if others are still as the caller has read them.
--
-- KEYS  1 the hash
-- ARGV  1 JSON: [expected values by field (empty: the field is absent), values to set by field, fields to delete]
-- Returns 1; 0 if a field has another value.
local call = redis.call
local expected, values, gone = unpack(cjson.decode(ARGV[1]))
for field, value in pairs(expected) do
  if (call('HGET', KEYS[1], field) or '') ~= value then return 0 end
end
for field, value in pairs(values) do call('HSET', KEYS[1], field, value) end
for _, field in ipairs(gone) do call('HDEL', KEYS[1], field) end
return 1
