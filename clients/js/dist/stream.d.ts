import type { Host, Link } from './link.js';
export declare function streamLink(host: Host, base: URL, token: string | undefined): Link;
