// The AI SDK with its OpenAI provider.
import { createOpenAI } from "@ai-sdk/openai";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { ASK, MODEL, NO_MODEL, SAY, errorOf, run, twice, weather } from "./features.mjs";

const openai = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL });
const Place = z.object({ city: z.string(), days: z.number().int() });
const plain = async (model = MODEL) => (await generateText({ model: openai.responses(model), prompt: SAY })).text;

async function streamed() {
  const deltas = [];
  for await (const delta of streamText({ model: openai.responses(MODEL), prompt: SAY }).textStream) deltas.push(delta);
  return deltas;
}

async function tools() {
  const known = tool({ description: "The weather.", inputSchema: Place, execute: weather });
  const asked = { model: openai.responses(MODEL), prompt: ASK, tools: { weather: known }, stopWhen: stepCountIs(5) };
  return (await generateText(asked)).text;
}

async function structured() {
  const asked = { model: openai.responses(MODEL), prompt: SAY, output: Output.object({ schema: Place }) };
  return (await generateText(asked)).output;
}

await run({ plain, streamed, tools, structured, error: () => errorOf(() => plain(NO_MODEL)), cut: () => twice(plain), lost: () => twice(plain) });
