// The calls of OpenAI's guide to streaming a background response: create as a stream, lose it, and go on behind the last event.
// Nothing here knows of Backstop; OPENAI_BASE_URL and OPENAI_API_KEY say where it goes.
import OpenAI from "openai";

const client = new OpenAI();

const stream = await client.responses.create({
  model: "gpt-5.2",
  input: "Say hello from Node.",
  background: true,
  stream: true,
  metadata: { sim_run_s: "1" },
});

const types = [];
const numbers = [];
let id = null;
let text = "";

async function read(events, until) {
  for await (const event of events) {
    types.push(event.type);
    numbers.push(event.sequence_number);
    if (event.type === "response.created") id = event.response.id;
    if (event.type === "response.output_text.delta") text += event.delta;
    if (event.type === until) return event;
  }
  return null;
}

await read(stream, "response.output_text.delta");
const rest = await client.responses.retrieve(id, { stream: true, starting_after: numbers.at(-1) });
const last = await read(rest, "response.completed");

console.log(
  JSON.stringify({ types, numbers, text, same: last.response.id === id, status: last.response.status }),
);
