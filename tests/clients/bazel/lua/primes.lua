-- Prints the primes up to the number on the command line, one a line.
local limit = tonumber(arg[1])
for candidate = 2, limit do
  local prime = true
  for divisor = 2, math.floor(math.sqrt(candidate)) do
    if candidate % divisor == 0 then
      prime = false
      break
    end
  end
  if prime then
    print(candidate)
  end
end
