// The public exports of the package.
export { Fanwire, isGap } from './client.js';
export { Subscription } from './subscription.js';
export { pattern } from './filter.js';
export { FanwireError } from './types.js';
export type {
  Change, EventMap, EventOf, FanwireEvent, Filter, Gap, Matching, NewEvent, Options, Past, SocketLike, Status, SubscribeOptions, Updated,
} from './types.js';
