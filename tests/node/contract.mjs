// What a caller with the official Node SDK relies on. Prints one JSON object of what it saw; the test judges it.
import OpenAI from "openai";

const client = new OpenAI();
const asked = { model: "gpt-5.2", input: "Say hello.", background: true };
const stuck = { ...asked, metadata: { sim_fault: "run_stuck_in_progress" } };
const seen = {};

async function errorOf(call) {
  try {
    await call();
    return "no error";
  } catch (error) {
    const { status, code, type, param } = error;
    return { name: error.constructor.name, status, code, type, param, request: error.requestID?.slice(0, 4) };
  }
}

// An SDK whose first answer gets lost on the way back: it repeats the create by itself.
function losing(counts) {
  let lost = false;
  return async (url, init) => {
    counts.push(new Headers(init.headers).get("x-stainless-retry-count"));
    const answer = await fetch(url, init);
    if (lost) return answer;
    lost = true;
    await answer.arrayBuffer();
    throw new TypeError("the answer was lost");
  };
}

const created = await client.responses.create(stuck);
const read = await client.responses.retrieve(created.id);
seen.created = { id: created.id, status: created.status, metadata: created.metadata, text: created.output_text };
seen.read = { id: read.id, status: read.status };
const cancelled = await client.responses.cancel(created.id);
seen.cancelled = { id: cancelled.id, status: cancelled.status };
seen.again = (await client.responses.cancel(created.id)).status;
seen.items = (await client.responses.inputItems.list(created.id)).data.map((item) => item.content[0].text);
await client.responses.delete(created.id);
seen.deleted = await errorOf(() => client.responses.retrieve(created.id));

const keyed = { headers: { "Idempotency-Key": `node-${process.pid}-${Date.now()}` } };
const counts = [];
const repeating = new OpenAI({ fetch: losing(counts), maxRetries: 2 });
const repeated = await repeating.responses.create(asked, keyed);
seen.repeated = { counts, same: (await client.responses.create(asked, keyed)).id === repeated.id, id: repeated.id };
seen.reused = await errorOf(() => client.responses.create({ ...asked, input: "other" }, keyed));

const keylessCounts = [];
const keyless = await new OpenAI({ fetch: losing(keylessCounts), maxRetries: 2 }).responses.create({
  ...asked,
  input: `Say ${Date.now()}.`,
});
seen.keyless = { counts: keylessCounts, id: keyless.id };

seen.unauthenticated = await errorOf(() => new OpenAI({ apiKey: "sk-wrong" }).responses.create(asked));
seen.unknown = await errorOf(() => client.responses.retrieve("resp_unknown"));
const foreground = await client.responses.create({ model: asked.model, input: asked.input });
seen.foreground = { status: foreground.status, background: foreground.background, text: foreground.output_text };
const refused = { ...asked, background: undefined, metadata: { sim_fault: "create_400" } };
seen.refused = await errorOf(() => client.responses.create(refused));
const limited = new OpenAI({ apiKey: process.env.LIMITED_KEY, maxRetries: 0 });
seen.limited = await errorOf(() => limited.responses.create(asked));

console.log(JSON.stringify(seen));
