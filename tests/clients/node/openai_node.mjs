// The official Node SDK.
import OpenAI from "openai";
import { ASK, MODEL, NO_MODEL, SAY, SCHEMA, TOOL, errorOf, run, twice, weather } from "./features.mjs";

const client = new OpenAI();
const plain = async (model = MODEL) => (await client.responses.create({ model, input: SAY })).output_text;

async function streamed() {
  const deltas = [];
  for await (const event of await client.responses.create({ model: MODEL, input: SAY, stream: true })) {
    if (event.type === "response.output_text.delta") deltas.push(event.delta);
  }
  return deltas;
}

async function tools() {
  const input = [{ role: "user", content: ASK }];
  const response = await client.responses.create({ model: MODEL, input, tools: [TOOL] });
  for (const item of response.output.filter((each) => each.type === "function_call")) {
    input.push(item, { type: "function_call_output", call_id: item.call_id, output: weather(JSON.parse(item.arguments)) });
  }
  return (await client.responses.create({ model: MODEL, input, tools: [TOOL] })).output_text;
}

async function structured() {
  const text = { format: { type: "json_schema", name: "place", schema: SCHEMA, strict: true } };
  return (await client.responses.parse({ model: MODEL, input: SAY, text })).output_parsed;
}

await run({ plain, streamed, tools, structured, error: () => errorOf(() => plain(NO_MODEL)), cut: () => twice(plain), lost: () => twice(plain) });
