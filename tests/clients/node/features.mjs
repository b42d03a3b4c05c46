// What all scripts here share: `node SCRIPT FEATURE` does one thing with one client, and prints what came as one JSON value.
export const MODEL = "gpt-5.2";
export const NO_MODEL = "no-such-model";
export const SAY = "Say hello.";
export const ASK = "How is the weather?";
export const weather = ({ city, days }) => `sunny in ${city} for ${days}`;
export const SCHEMA = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
export const TOOL = { type: "function", name: "weather", description: "The weather.", parameters: SCHEMA, strict: true };

export async function errorOf(call) {
  try {
    await call();
    return { raised: null };
  } catch (error) {
    const known = [error, error.lastError, error.cause].filter(Boolean);
    const status = known.map((each) => each.status ?? each.statusCode).find(Boolean) ?? null;
    return { raised: error.constructor.name, status };
  }
}

// As somebody who asks once more where the client gave up.
export async function twice(call) {
  try {
    return { asked: 1, text: await call() };
  } catch {
    return { asked: 2, text: await call() };
  }
}

export async function run(features) {
  process.stdout.write(JSON.stringify(await features[process.argv[2]]()));
  process.exit(0);
}
