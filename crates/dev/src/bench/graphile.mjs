// The baseline of `bench jobs`: npm graphile-worker, batched, with its local queue. Prints {"seconds": …}.
import { run, makeWorkerUtils } from "graphile-worker";

const [connectionString, count] = [process.argv[2], Number(process.argv[3])];
const quiet = { debug() {}, info() {}, warn() {}, error: console.error };
const preset = {
  worker: {
    connectionString,
    concurrentJobs: 24,
    maxPoolSize: 10,
    pollInterval: 2000,
    localQueue: { size: 500, ttl: 60000, refetchDelay: { durationMs: 10, threshold: 100, maxAbortThreshold: 500 } },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
};
const utils = await makeWorkerUtils({ preset });
await utils.migrate();
const began = process.hrtime.bigint();
for (let at = 0; at < count; at += 500) {
  const specs = [];
  for (let i = at; i < Math.min(at + 500, count); i++) specs.push({ identifier: "noop", payload: { i } });
  await utils.addJobs(specs);
}
let done = 0;
let finished;
const all = new Promise((resolve) => { finished = resolve; });
const runner = await run({ preset, taskList: { noop: () => { if (++done === count) finished(); } }, noHandleSignals: true });
await all;
await runner.stop();
const seconds = Number(process.hrtime.bigint() - began) / 1e9;
console.log(JSON.stringify({ seconds }));
await utils.release();
