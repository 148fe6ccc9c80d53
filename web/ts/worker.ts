/** The worker that a model lives in. */
import { makeHost } from './host.js';
import { serve } from './rpc.js';

serve(makeHost(), self as unknown as Worker);
