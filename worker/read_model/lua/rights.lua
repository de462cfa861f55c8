-- Tries commands and returns the errors of those that the user may not run.
--
-- KEYS  1 a key that holds nothing
-- ARGV  1 JSON: commands, each a list of words
-- Returns for each refused command its name, a colon and the server's error.
local refused = {}
for _, words in ipairs(cjson.decode(ARGV[1])) do
  local answer = redis.pcall(unpack(words))
  if type(answer) == 'table' and answer.err then refused[#refused + 1] = words[1] .. ': ' .. answer.err end
end
return refused
