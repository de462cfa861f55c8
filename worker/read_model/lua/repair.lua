-- The steps of a repair: 'begin' starts a new key generation that is not read yet, 'switch' makes it the live one, 'forget'
-- removes an unlinked key generation from the list of retired ones.
--
-- KEYS  1 watermark
-- ARGV  1 'begin', 'switch' or 'forget'  2 generation  3 epoch
--       4.. with switch: field, value pairs of the watermark to set; with forget: the key generation
-- Returns 'fenced', or {key generation that is being built or live, retired key generations to unlink...}.
local call = redis.call
if call('HGET', KEYS[1], 'epoch') ~= ARGV[3] then return 'fenced' end
local watermark = call('HMGET', KEYS[1], 'keys', 'building', 'retired')
local retired = {}
local function retire(name)
  if name and name ~= '' then retired[#retired + 1] = name end
end
for name in string.gmatch(watermark[3] or '', '%S+') do
  if not (ARGV[1] == 'forget' and name == ARGV[4]) then retire(name) end
end
local current = watermark[1] or ''
if ARGV[1] == 'begin' then
  retire(watermark[2])
  -- an epoch is unique even if the watermark was lost, so the new keys never mix with keys that are left over
  current = ARGV[3]
  call('HSET', KEYS[1], 'generation', ARGV[2], 'state', 'repairing', 'building', current, 'seq', 0)
elseif ARGV[1] == 'switch' then
  if not watermark[2] then return 'fenced' end
  retire(watermark[1])
  current = watermark[2]
  call('HSET', KEYS[1], 'keys', current, 'state', 'live', unpack(ARGV, 4))
  call('HDEL', KEYS[1], 'building')
end
call('HSET', KEYS[1], 'retired', table.concat(retired, ' '))
if ARGV[1] ~= 'forget' then announce(ANY_SESSION, true) end
return { current, unpack(retired) }
