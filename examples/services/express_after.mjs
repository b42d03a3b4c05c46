// The Express service with Backstop: it answers at once, and the summary is read whenever it is there.
//
//     npm install express openai
//     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=KEY-OF-BACKSTOP node express_after.mjs 8000
//
// A repeat for the same document joins its job and is not paid again.
import express from "express";
import OpenAI from "openai";

const app = express().use(express.json());
const client = new OpenAI();

app.post("/summaries/:document", async (request, response) => {
  const asked = { model: "gpt-5.2", input: request.body.text, background: true };
  const made = await client.responses.create(asked, { headers: { "Idempotency-Key": request.params.document } });
  response.json({ document: request.params.document, id: made.id });
});

app.get("/summaries/:id", async (request, response) => {
  const made = await client.responses.retrieve(request.params.id);
  response.json({ status: made.status, summary: made.output_text });
});

app.listen(Number(process.argv[2]), "127.0.0.1");
