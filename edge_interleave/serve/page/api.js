/** Requests to the server other than the WebSocket's. */

import { headers } from "./key.js";
import { Told } from "./notices.js";

/**
 * @typedef {{id: string, loaded: boolean}} Model
 */

/** The key is missing or wrong. */
export class Unauthorized extends Error {}

/**
 * GET a list. Throws Unauthorized, Told.
 * @param {string} path
 * @returns {Promise<any[]>}
 */
export async function list(path) {
  const response = await call(path, { headers: headers() });
  return (await response.json()).data;
}

/**
 * Ask for a chat completion; its text comes piece by piece. Throws Told; AbortError if `signal` ends it.
 * @param {object} body The request, without `stream`.
 * @param {(text: string) => void} onPiece
 * @param {AbortSignal} signal
 * @returns {Promise<{usage: any, timings: any}>}
 */
export async function complete(body, onPiece, signal) {
  const response = await call("/v1/chat/completions", {
    method: "POST",
    headers: { ...headers(), "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let last = { usage: null, timings: null };
  for await (const event of events(response)) {
    if (event.error) throw new Told(sentence(event.error.message));
    onPiece(event.choices[0]?.delta.content ?? "");
    if (event.usage) last = event;
  }
  if (!last.usage) throw new Told("The answer broke off: the connection to the server was lost. Send the message again.");
  return last;
}

/** @param {string} message The server's, which begins small and has no full stop. */
export function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/** @param {string} path @param {RequestInit} options */
async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", referrerPolicy: "no-referrer", ...options });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Told("The server does not answer. Check that `edge-interleave serve` still runs, then try again.");
  }
  if (response.ok) return response;
  if (response.status === 401) throw new Unauthorized();
  const body = await response.json().catch(() => null);
  throw new Told(sentence(body?.error?.message ?? `The server refused the request (status ${response.status})`));
}

/** @param {Response} response Server-sent events. */
async function* events(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const blocks = rest.split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
    if (done) return;
  }
}
