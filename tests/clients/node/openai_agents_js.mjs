// @openai/agents: an agent with its runner.
import { Agent, run as runAgent, setTracingDisabled, tool } from "@openai/agents";
import { z } from "zod";
import { ASK, MODEL, NO_MODEL, SAY, errorOf, run, twice, weather } from "./features.mjs";

setTracingDisabled(true);
const Place = z.object({ city: z.string(), days: z.number().int() });
const agent = (options = {}) => new Agent({ name: "Helper", instructions: "Be short.", model: MODEL, ...options });
const plain = async (model = MODEL) => (await runAgent(agent({ model }), SAY)).finalOutput;

async function streamed() {
  const deltas = [];
  const result = await runAgent(agent(), SAY, { stream: true });
  for await (const delta of result.toTextStream()) deltas.push(delta);
  await result.completed;
  return deltas;
}

async function tools() {
  const known = tool({ name: "weather", description: "The weather.", parameters: Place, execute: weather });
  return (await runAgent(agent({ tools: [known] }), ASK)).finalOutput;
}

const structured = async () => (await runAgent(agent({ outputType: Place }), SAY)).finalOutput;

await run({ plain, streamed, tools, structured, error: () => errorOf(() => plain(NO_MODEL)), cut: () => twice(plain), lost: () => twice(plain) });
