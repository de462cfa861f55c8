// Prints what the official parser says of an AsyncAPI document, a JSON line each: severity (0 is an error), place and message.
import { readFile } from "node:fs/promises";
import { Parser } from "@asyncapi/parser";

const { diagnostics } = await new Parser().parse(await readFile(process.argv[2], "utf8"));
for (const { severity, path, message } of diagnostics) {
  console.log(JSON.stringify({ severity, path: path.join("."), message }));
}
