// An Express service before Backstop: its caller waits while OpenAI works, and a drop loses what was paid.
//
//     npm install express openai
//     OPENAI_API_KEY=sk-… node express_before.mjs 8000
//
// `diff` shows what changes with express_after.mjs.
import express from "express";
import OpenAI from "openai";

const app = express().use(express.json());
const client = new OpenAI();

app.post("/summaries/:document", async (request, response) => {
  const made = await client.responses.create({ model: "gpt-5.2", input: request.body.text });
  response.json({ document: request.params.document, summary: made.output_text });
});

app.listen(Number(process.argv[2]), "127.0.0.1");
