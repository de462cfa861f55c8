-- Sets or clears marks of dead letters (`worker/read_model/dead_letter_marks.py`).
--
-- KEYS  1 the hash of the marks
-- ARGV  1 'set' or 'clear'  2.. field, mask pairs: the bits to set or to clear, as many bytes as a field has
-- Returns 'ok'. A field without bits is removed. A repeated call changes nothing.
local call, hash, is_set = redis.call, KEYS[1], ARGV[1] == 'set'
for index = 2, #ARGV, 2 do
  local field, mask = ARGV[index], ARGV[index + 1]
  local old = call('HGET', hash, field)
  if not old then
    if is_set then call('HSET', hash, field, mask) end
  else
    local bytes, is_empty = {}, true
    for at = 1, #mask do
      local byte = is_set and bit.bor(old:byte(at), mask:byte(at)) or bit.band(old:byte(at), bit.bnot(mask:byte(at)))
      is_empty = is_empty and byte == 0
      bytes[at] = string.char(byte)
    end
    if is_empty then call('HDEL', hash, field) else call('HSET', hash, field, table.concat(bytes)) end
  end
end
return 'ok'
