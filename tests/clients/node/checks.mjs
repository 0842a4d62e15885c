// What every client tries; see python/checks.py. A check that fails gives its stack.

export const { LUTHIER_URL: URL, LUTHIER_KEY: KEY, LUTHIER_MODEL: MODEL } = process.env;
export const PROMPT = "Name a city.";
export const STORY = "Write a long story about the sea.";
export const LONG = "word ".repeat(5000);
export const MAX_TOKENS = 12;
export const MANY_TOKENS = 400;
export const BOOKING = {
  type: "object",
  properties: { city: { enum: ["Oslo", "Rome"] }, nights: { enum: [1, 2, 3] } },
  required: ["city", "nights"],
  additionalProperties: false,
};

export async function statusOf(call) {
  try {
    await call();
  } catch (error) {
    for (let cause = error; cause; cause = cause.cause) {
      const status = cause.status ?? cause.statusCode;
      if (status) return status;
    }
    throw error;
  }
  return null;
}

export async function report(checks) {
  const results = {};
  for (const [name, check] of Object.entries(checks)) {
    try {
      results[name] = { result: await check() };
    } catch (error) {
      results[name] = { failure: String(error?.stack ?? error).slice(0, 2000) };
    }
  }
  console.log(JSON.stringify(results));
  process.exit(0);
}
