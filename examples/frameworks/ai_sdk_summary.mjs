// The AI SDK over Backstop: only the address changes, and a header makes a repeat the same call.
//
//     npm install ai @ai-sdk/openai
//     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=KEY-OF-BACKSTOP node ai_sdk_summary.mjs 17 "Say hello."
//
// The first argument names the document: a second run for it is not paid again.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText } from "ai";

const [document, prompt] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL });
const headers = { "Idempotency-Key": document };
console.log((await generateText({ model: openai.responses("gpt-5.2"), prompt, headers })).text);
