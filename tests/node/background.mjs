// The calls of OpenAI's guide to background mode, in its order: create, poll every two seconds, print. Nothing here knows of
// Backstop; OPENAI_BASE_URL and OPENAI_API_KEY say where it goes.
import OpenAI from "openai";

const client = new OpenAI();

let response = await client.responses.create({
  model: "gpt-5.2",
  input: "Say hello from Node.",
  background: true,
});

while (response.status === "queued" || response.status === "in_progress") {
  await new Promise((resolve) => setTimeout(resolve, 2000));
  response = await client.responses.retrieve(response.id);
}

console.log(`${response.status}: ${response.output_text}`);
