"""What is known of workers and jobs: in the Redis instance `coordination`, by that Redis' clock.

A *worker* is one life of a Celery worker's main process, `worker@host#1a2b3c4d`. A *job* is a
query or a request for a chart's data on its way: `query:17` by the id of its row, `chart:<uuid>`
by the id that Superset gave it. Nothing here needs Superset, Celery or a synchronised clock.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..times import TIMES
from .records import Hold, Job, Queue, Report, Run, Wake, Worker, read, record

FORGET_SECONDS = 3600  # what dead workers leave is shown to operators for so long
FINISHED_SECONDS = 7200  # a chart's message may be delivered once more for so long

EVERY_GROUP = "*"  # whose sizes are held, instead of a group's name

PREFIX = "guard:"
WORKERS, JOBS, MESSAGES, RUNS, NOTICED, DECISIONS, SCALER, HOLD = (
    PREFIX + name
    for name in ("workers", "jobs", "messages", "runs", "noticed", "decisions", "scaler", "hold")
)

NOW = "local time = redis.call('TIME'); local now = time[1] + time[2] / 1e6\n"
# KEYS: workers, worker's own, then queue and last sight of each queue. ARGV: worker, JSON, seconds
BEAT = (
    NOW
    + """
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
for i = 3, #KEYS, 2 do
  redis.call('ZADD', KEYS[i], now, ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now - ARGV[3])
  redis.call('SET', KEYS[i + 1], string.format('%.3f', now))
end
"""
)
# KEYS: queue, last sight, jobs, messages, what the scaler says.
# ARGV: silent, Redis' start, job, record, message, whether the scaler's word counts ('' for no)
# -> admitted?, seconds since there was a consumer, what the scaler says
ADMIT = (
    NOW
    + """
if redis.call('ZCOUNT', KEYS[1], now - ARGV[1], '+inf') == 0 then
  local up = string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)')
  if tonumber(up) > tonumber(ARGV[2]) then
    local wake = ARGV[6] ~= '' and redis.call('GET', KEYS[5])
    if not wake or cjson.decode(wake).state == 'cannot' then
      local seen = redis.call('GET', KEYS[2])
      return {0, seen and string.format('%.3f', now - seen) or '', wake or ''}
    end
  end
end
if ARGV[3] ~= '' then
  local record = string.format('{"at":%.3f,', now) .. string.sub(ARGV[4], 2)
  redis.call('HSET', KEYS[3], ARGV[3], record)
  redis.call('HSET', KEYS[4], ARGV[3], ARGV[5])
end
return {1, '', ''}
"""
)
# KEYS: queue, last sight, what the scaler says. ARGV: silent
# -> consumers, seconds since there was one, what the scaler says
QUEUE = (
    NOW
    + """
local seen = redis.call('GET', KEYS[2])
return {redis.call('ZCOUNT', KEYS[1], now - ARGV[1], '+inf'),
        seen and string.format('%.3f', now - seen) or '', redis.call('GET', KEYS[3]) or ''}
"""
)
# KEYS: runs. ARGV: job, record, the record that may be replaced ('' for none) -> taken?
TAKE = (
    NOW
    + """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.format('{"at":%.3f,', now) .. string.sub(ARGV[2], 2))
return 1
"""
)
# KEYS: runs. ARGV: job, token of the run -> released?
RELEASE = """
local run = redis.call('HGET', KEYS[1], ARGV[1])
if not run or cjson.decode(run).token ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
# KEYS: jobs, messages, runs, mark, the channel's stream, everybody's stream.
# ARGV: job, owner's token ('' for whoever), event, seconds, lengths of the streams -> written?
FINISH = """
if redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
local run = redis.call('HGET', KEYS[3], ARGV[1])
if ARGV[2] ~= '' and run and cjson.decode(run).token ~= ARGV[2] then return 0 end
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[5], '*', 'data', ARGV[3])
redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[6], '*', 'data', ARGV[3])
redis.call('SET', KEYS[4], 1, 'EX', ARGV[4])
for i = 1, 3 do redis.call('HDEL', KEYS[i], ARGV[1]) end
return 1
"""


def queue_of(workers: int, silent: str, wake: str) -> Queue:
    """Return a queue as the scripts tell it, '' for what is not known."""
    return Queue(workers, float(silent) if silent else None, read(Wake, wake) if wake else None)


class Registry:
    """The state in Redis. Every method raises redis.RedisError when Redis cannot be asked."""

    def __init__(self, url: str, timeout_seconds: float = 0.5) -> None:
        self.redis: Any = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            # Once more, at once, for a connection that a restart of Redis has closed. Where Redis
            # is silent another look is silent, too, and redis-py would look for minutes.
            retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
            health_check_interval=30,
        )
        self._scripts = {
            text: self.redis.register_script(text)
            for text in (BEAT, ADMIT, QUEUE, TAKE, RELEASE, FINISH)
        }

    # -- Workers ----------------------------------------------------------------------------------
    def beat(self, name: str, worker: Worker) -> None:
        """Say that a worker lives and, unless it drains or is stuck, takes from its queues."""
        keys = [WORKERS, f"{PREFIX}worker:{name}"]
        for queue in worker.queues if worker.takes else []:
            keys += [f"{PREFIX}queue:{queue}", f"{PREFIX}seen:{queue}"]
        self._scripts[BEAT](keys=keys, args=[name, record(worker), FORGET_SECONDS])

    def withdraw(self, name: str, queues: Iterable[str]) -> None:
        """Say that a worker takes no more work; what it runs goes on."""
        for queue in queues:
            self.redis.zrem(f"{PREFIX}queue:{queue}", name)

    def leave(self, name: str, queues: Iterable[str]) -> None:
        """Say that a worker has stopped."""
        self.withdraw(name, queues)
        self.redis.zrem(WORKERS, name)
        self.redis.delete(f"{PREFIX}worker:{name}")

    def workers(self) -> dict[str, Worker]:
        """Return all workers that did not say that they stopped, the silent ones too."""
        beats = dict(self.redis.zrange(WORKERS, 0, -1, withscores=True))
        texts = self.redis.mget([f"{PREFIX}worker:{name}" for name in beats]) if beats else []
        return {
            name: Worker(**{**vars(read(Worker, text)), "last_beat": beat})
            for (name, beat), text in zip(beats.items(), texts, strict=True)
            if text
        }

    def queue(self, name: str) -> Queue:
        """Return who takes from a queue."""
        keys = [f"{PREFIX}{kind}:{name}" for kind in ("queue", "seen", "wake")]
        return queue_of(*self._scripts[QUEUE](keys=keys, args=[TIMES.silent_seconds]))

    def queues(self) -> list[str]:
        """Return the names of all queues that ever had a worker."""
        seen = f"{PREFIX}seen:"
        return sorted(key.removeprefix(seen) for key in self.redis.scan_iter(f"{seen}*", 1000))

    def now(self) -> float:
        """Return Redis' time, seconds since 1970."""
        seconds, microseconds = self.redis.time()
        return float(seconds + microseconds / 1e6)

    def up_seconds(self) -> int:
        """Return since when Redis runs."""
        return int(self.redis.info("server")["uptime_in_seconds"])

    def wakes(self, wakes: Mapping[str, Wake]) -> None:
        """Say of queues, by name, whether workers are started for them: the scaler, each tick."""
        with self.redis.pipeline(transaction=False) as pipeline:
            counts = round(TIMES.wake_seconds * 1000)  # milliseconds
            for queue, wake in wakes.items():
                pipeline.set(f"{PREFIX}wake:{queue}", record(wake), px=counts)
            pipeline.execute()

    # -- Jobs -------------------------------------------------------------------------------------
    def admit(
        self, queue: str, name: str, job: Job, message: str, wake: bool = False
    ) -> Queue | None:
        """Write a job down and return None; or return the queue where nobody would take it.

        An empty name is that of a task which is not written down. With `wake` a queue will do
        for which the scaler starts a worker.
        """
        keys = [f"{PREFIX}queue:{queue}", f"{PREFIX}seen:{queue}", JOBS, MESSAGES]
        keys.append(f"{PREFIX}wake:{queue}")
        args: list[Any] = [TIMES.silent_seconds, TIMES.redis_start_seconds]
        args += [name, record(job), message, "yes" if wake else ""]
        admitted, *seen = self._scripts[ADMIT](keys=keys, args=args)
        return None if admitted else queue_of(0, *seen)

    def jobs(self) -> dict[str, Job]:
        """Return all jobs that are not finished."""
        return {name: read(Job, text) for name, text in self.redis.hgetall(JOBS).items()}

    def message(self, name: str) -> Mapping[str, Any] | None:
        """Return `args` and `kwargs` of a job's task."""
        text = self.redis.hget(MESSAGES, name)
        return json.loads(text) if text else None

    def resent(self, name: str, job: Job) -> None:
        """Write down that a job is sent once more."""
        text = json.dumps({**asdict(job), "at": self.now()})
        self.redis.hset(JOBS, name, text)

    def forget(self, name: str) -> None:
        """Drop what was known of a job that is finished."""
        with self.redis.pipeline() as pipeline:
            for key in (JOBS, MESSAGES, RUNS):
                pipeline.hdel(key, name)
            pipeline.execute()

    # -- Runs -------------------------------------------------------------------------------------
    def runs(self) -> dict[str, Run]:
        """Return who runs what."""
        return {name: read(Run, text) for name, text in self.redis.hgetall(RUNS).items()}

    def run(self, name: str) -> Run | None:
        """Return who runs a job."""
        text = self.redis.hget(RUNS, name)
        return read(Run, text) if text else None

    def take(self, name: str, run: Run, instead: str | None = None) -> bool:
        """Write down who runs a job, and return whether that is so.

        `instead` is the stored record that it may replace, '' for none, None for any.
        """
        before = self.redis.hget(RUNS, name) or "" if instead is None else instead
        return bool(self._scripts[TAKE](keys=[RUNS], args=[name, record(run), before]))

    def release(self, name: str, token: str) -> bool:
        """Take off the run of this token from a job, which goes on waiting; False for any other."""
        return bool(self._scripts[RELEASE](keys=[RUNS], args=[name, token]))

    # -- Charts -----------------------------------------------------------------------------------
    def finished(self, name: str) -> bool:
        """Return whether a chart's job had its last event."""
        return bool(self.redis.exists(f"{PREFIX}finished:{name}"))

    def finish(
        self,
        name: str,
        token: str,
        event: Mapping[str, Any],
        streams: Mapping[str, int],
    ) -> bool:
        """End a chart's job: write its last event, once, and forget the job.

        `token` is that of the run that finishes it, '' for the watchdog. `streams` are the names
        and greatest lengths of the two streams. Returns False, and writes nothing, where the job
        was finished before or another run has it.
        """
        keys = [JOBS, MESSAGES, RUNS, f"{PREFIX}finished:{name}", *streams]
        args: list[Any] = [name, token, json.dumps(event), FINISHED_SECONDS, *streams.values()]
        return bool(self._scripts[FINISH](keys=keys, args=args))

    # -- Decisions of the watchdog ----------------------------------------------------------------
    def noticed(self, names: Collection[str]) -> dict[str, float]:
        """Return for how many seconds each of these has been among those given here."""
        now = self.now()
        before = {name: float(then) for name, then in self.redis.hgetall(NOTICED).items()}
        gone, new = before.keys() - set(names), set(names) - before.keys()
        if gone:
            self.redis.hdel(NOTICED, *gone)
        if new:
            self.redis.hset(NOTICED, mapping=dict.fromkeys(new, now))
        return {name: now - before.get(name, now) for name in names}

    def decided(self, decision: str) -> None:
        """Count a decision."""
        self.redis.hincrby(DECISIONS, decision, 1)

    def decisions(self) -> dict[str, int]:
        """Return how often each decision was taken, by its name."""
        return {name: int(count) for name, count in self.redis.hgetall(DECISIONS).items()}

    # -- The scaler -------------------------------------------------------------------------------
    def report(self, report: Report) -> None:
        """Write down what the leading scaler sees and decided; the time is added."""
        self.redis.set(SCALER, json.dumps(asdict(replace(report, at=self.now()))))

    def reported(self) -> Report | None:
        """Return what a scaler wrote down last; None: none ever did."""
        text = self.redis.get(SCALER)
        return Report.read(json.loads(text)) if text else None

    def hold(self, reason: str, group: str = EVERY_GROUP) -> None:
        """Let the scaler change no group's size, or not that of one, until it is released."""
        self.redis.hset(HOLD, group, json.dumps({"reason": reason, "at": self.now()}))

    def release_hold(self, group: str = EVERY_GROUP) -> None:
        """Let the scaler change sizes again: of every group, whoever held which, or of one."""
        if group == EVERY_GROUP:
            self.redis.delete(HOLD)
        else:
            self.redis.hdel(HOLD, group)

    def held(self) -> dict[str, Hold]:
        """Return why the scaler does not change the sizes of groups, by group or EVERY_GROUP."""
        return {group: read(Hold, text) for group, text in self.redis.hgetall(HOLD).items()}
