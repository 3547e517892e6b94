-- What Reveille does inside Redis. Each function gets the keys it works on, all of one hash tag, and decides and acts in one
-- step that nothing can come between. A change here needs a new number in functions.rs, so that two versions can run side by side.
-- Every refusal is an array that begins with its name; success is anything else.

local function text(number)
  return string.format('%.0f', number)
end

-- Writes what is there already. A repetition changes nothing, but a WAIT that follows must wait for the replicas to come as far as
-- this, and it counts from the connection's own last write.
local function touch(key, field, value)
  redis.call('HSET', key, field, value)
end

-- Adds an entry to a shard's feed. 'p' names the entry before, so that a reader sees when some were trimmed away unread.
local function feed(key, maxlen, last, ...)
  return redis.call('XADD', key, 'MAXLEN', '~', maxlen, '*', 'p', last, ...)
end

-- The version of a stored record: octets 2 to 9, in network order. Absent: 0.
local function version_of(blob)
  if not blob then
    return 0
  end
  return (struct.unpack('>I8', blob, 2))
end

-- keys: fence, records, feed
-- args: epoch, owner, feed length, first version, then for each record: field, expected version or '*', 's' or 'd', value.
-- Versions are given to the records in turn. All are written or none is.
local function write(keys, args)
  local fence = redis.call('HMGET', keys[1], 'epoch', 'owner', 'seq', 'last')
  if fence[1] ~= args[1] or fence[2] ~= args[2] then
    return { 'FENCED', fence[1] or '0', fence[2] or '' }
  end
  local first, seq = tonumber(args[4]), tonumber(fence[3] or '0')
  local final = first + (#args - 4) / 4 - 1
  if final == seq then
    -- The owner sends the next only when it knows the fate of this one: a repetition, whose first reply was lost.
    local stored = redis.call('HGET', keys[2], args[#args - 3])
    local same = (args[#args - 1] == 's' and stored == args[#args]) or (args[#args - 1] == 'd' and not stored)
    if same then
      touch(keys[1], 'seq', fence[3])
      return 0
    end
  end
  if first <= seq then
    return { 'STALE', text(seq) }
  end
  for i = 5, #args, 4 do
    if args[i + 1] ~= '*' then
      local version = version_of(redis.call('HGET', keys[2], args[i]))
      if version ~= tonumber(args[i + 1]) then
        return { 'CONFLICT', text(version) }
      end
    end
  end
  local last, version = fence[4] or '', first
  for i = 5, #args, 4 do
    if args[i + 2] == 's' then
      redis.call('HSET', keys[2], args[i], args[i + 3])
    else
      redis.call('HDEL', keys[2], args[i])
    end
    last = feed(keys[3], args[3], last, 'f', args[i], 'v', text(version), args[i + 2], args[i + 3])
    version = version + 1
  end
  redis.call('HSET', keys[1], 'seq', text(final), 'last', last)
  return 0
end

-- keys: fence, feed; args: owner, expected epoch, a name for this attempt, feed length, the epoch it is to get
local function claim(keys, args)
  local fence = redis.call('HMGET', keys[1], 'epoch', 'owner', 'seq', 'last', 'claim')
  local epoch = tonumber(fence[1] or '0')
  local expected, wanted = tonumber(args[2]), tonumber(args[5])
  if epoch == wanted and fence[2] == args[1] and fence[5] == args[3] then
    touch(keys[1], 'epoch', fence[1])
    return { text(epoch), fence[3] or '0' }
  end
  if epoch ~= expected then
    return { 'CLAIMED', text(epoch), fence[2] or '' }
  end
  local last = feed(keys[2], args[4], fence[4] or '', 'c', args[1], 'e', args[5])
  redis.call('HSET', keys[1], 'epoch', args[5], 'owner', args[1], 'claim', args[3], 'last', last)
  return { args[5], fence[3] or '0' }
end

-- keys: fence; args: owner, epoch. The epoch stays, so that it never comes a second time.
local function release(keys, args)
  local fence = redis.call('HMGET', keys[1], 'epoch', 'owner')
  if fence[1] == args[2] and fence[2] == '' then
    return 0
  end
  if fence[1] ~= args[2] or fence[2] ~= args[1] then
    return { 'FENCED', fence[1] or '0', fence[2] or '' }
  end
  redis.call('HSET', keys[1], 'owner', '')
  return 0
end

-- keys: fence, deferred, feed; args: feed length, most deferred, identifier, value
local function defer(keys, args)
  if redis.call('HEXISTS', keys[2], args[3]) == 1 then
    touch(keys[2], args[3], args[4])
    return 0
  end
  local length = redis.call('HLEN', keys[2])
  if length >= tonumber(args[2]) then
    return { 'FULL', text(length) }
  end
  redis.call('HSET', keys[2], args[3], args[4])
  local last = feed(keys[3], args[1], redis.call('HGET', keys[1], 'last') or '', 'f', args[3], 'h', args[4])
  redis.call('HSET', keys[1], 'last', last)
  return 0
end

-- keys: fence, deferred; args: epoch, owner, identifiers
local function settle(keys, args)
  local fence = redis.call('HMGET', keys[1], 'epoch', 'owner')
  if fence[1] ~= args[1] or fence[2] ~= args[2] then
    return { 'FENCED', fence[1] or '0', fence[2] or '' }
  end
  for i = 3, #args do
    redis.call('HDEL', keys[2], args[i])
  end
  return 0
end

-- The incarnation, other than ours, that holds a lease, and how long. A lease in its last millisecond is over.
local function held_by_another(key, incarnation)
  local held, left = redis.call('GET', key), redis.call('PTTL', key)
  if held and held ~= incarnation and left > 0 then
    return { 'HELD', held, text(left) }
  end
end

-- keys: lease, nodes, seen; args: tag, incarnation, time to live, description, how a lease's key begins, how long to remember
-- Times are milliseconds. Answers with the roster: tag, description, incarnation and remaining time of each live node.
local function renew(keys, args)
  local refusal = held_by_another(keys[1], args[2])
  if refusal then
    return refusal
  end
  local clock = redis.call('TIME')
  local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
  redis.call('SET', keys[1], args[2], 'PX', args[3])
  if redis.call('HGET', keys[2], args[1]) ~= args[4] then
    redis.call('HSET', keys[2], args[1], args[4])
  end
  redis.call('HSET', keys[3], args[1], text(now))
  local roster = { 'ROSTER' }
  local nodes = redis.call('HGETALL', keys[2])
  for i = 1, #nodes, 2 do
    local lease = args[5] .. nodes[i]
    local incarnation, left = redis.call('GET', lease), redis.call('PTTL', lease)
    if incarnation and left > 0 then
      table.insert(roster, { nodes[i], nodes[i + 1], incarnation, text(left) })
    elseif now - tonumber(redis.call('HGET', keys[3], nodes[i]) or '0') > tonumber(args[6]) then
      redis.call('HDEL', keys[2], nodes[i])
      redis.call('HDEL', keys[3], nodes[i])
    end
  end
  return roster
end

-- keys: lease; args: incarnation
local function resign(keys, args)
  local refusal = held_by_another(keys[1], args[1])
  if refusal then
    return refusal
  end
  redis.call('DEL', keys[1])
  return 0
end

-- keys: map, owners; args: map length, then for each shard: shard, tag, epoch. Older news than what is known is dropped.
local function announce(keys, args)
  local last = redis.call('HGET', keys[2], 'last') or ''
  local count = 0
  for i = 2, #args, 3 do
    local known = redis.call('HGET', keys[2], args[i])
    local epoch = known and tonumber(string.match(known, ' (%d+)$')) or -1
    local news = args[i + 1] .. ' ' .. args[i + 2]
    local given = tonumber(args[i + 2])
    if given > epoch or (given == epoch and args[i + 1] == '' and known ~= news) then
      redis.call('HSET', keys[2], args[i], news)
      last = feed(keys[1], args[1], last, 's', args[i], 't', args[i + 1], 'e', args[i + 2])
      count = count + 1
    end
  end
  if count > 0 then
    redis.call('HSET', keys[2], 'last', last)
  end
  return count
end

-- keys: secret; args: value ('' only looks), how long it is to live, up to which remaining time another one is replaced (both in
-- milliseconds). Answers with the value that is there afterwards and its remaining time; with nothing if there is none.
local function share(keys, args)
  local held, left = redis.call('GET', keys[1]), redis.call('PTTL', keys[1])
  -- The same value: a repetition, whose first reply was lost.
  if held and left > 0 and (args[1] == '' or held == args[1] or left > tonumber(args[3])) then
    return { held, text(left) }
  end
  if args[1] == '' then
    return {}
  end
  redis.call('SET', keys[1], args[1], 'PX', args[2])
  return { args[1], args[2] }
end
