// Tokens from a function. Loaded if there is one.
import { closed, type Host, type Link } from './link.js';
import { FanwireError } from './types.js';

/** Asks the function for a token. Fails if it does not return one in time. */
export async function ask(token: () => string | Promise<string>, timeout: number, ended: AbortSignal): Promise<string> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let end!: () => void;
  try {
    const late = new Promise<never>((_, reject) => {
      end = () => reject(closed());
      timer = setTimeout(() => reject(new Error(`none within ${timeout} ms`)), timeout);
      ended.addEventListener('abort', end);
      if (ended.aborted) end();
    });
    return await Promise.race([token(), late]);
  } catch (cause) {
    throw new FanwireError('token', 'no token', cause);
  } finally {
    clearTimeout(timer);
    ended.removeEventListener('abort', end);
  }
}

/**
 * Replaces a token while the connection lives: presents a JWT's successor some seconds before its end, or at half its life. Returns a
 * function that stops that.
 */
export function renew(first: string | undefined, link: Link, host: Host, next: () => Promise<string | undefined>): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isOver = false;
  const plan = (token: string | undefined): void => {
    let left = 0;
    try {
      const [, claims] = token!.split('.');
      left = JSON.parse(atob(claims!.replace(/-/g, '+').replace(/_/g, '/'))).exp * 1000 - Date.now();
    } catch {
      // Not a JWT: its end is unknown.
    }
    // A longer timer would fire at once.
    if (!(left > 0 && left < 2 ** 31)) return;
    const replace = async () => {
      try {
        const token = await next();
        if (isOver) return;
        if (link.refresh(token!)) return plan(token);
        link.close();
        host.lost({});
      } catch (error) {
        if (!isOver) host.failed(error as FanwireError);
      }
    };
    timer = setTimeout(replace, Math.max(left / 2, left - 30_000));
  };
  plan(first);
  return () => {
    isOver = true;
    clearTimeout(timer);
  };
}
