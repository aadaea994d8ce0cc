"""Every name other projects import from Sample Factory 2, at the path where they import it.

One line per name. A callable comes with the parameters callers rely on - names, order, defaults; implementations may
add parameters with defaults after them. ``...`` stands for "a default exists, its value does not matter". A name
without parentheses only has to exist.

Not here, because the data plane was redesigned and nothing outside the package can use them: ``SliceMerger``,
``slice_len``, ``ActorState``, ``policy_output_shapes``, ``alloc_policy_output_tensors``, and the
``inference_queues`` of the workers.
"""

from __future__ import annotations

ENTRY_POINTS = {
    "sample_factory.train": "make_runner(cfg); run_rl(cfg)",
    "sample_factory.enjoy": """
        visualize_policy_inputs(normalized_obs)
        render_frame(cfg, env, video_frames, num_episodes, last_render_start)
        make_env(cfg, render_mode=None)
        load_state_dict(cfg, actor_critic, device)
        enjoy(cfg)
    """,
    "sample_factory.eval": """
        generate_trajectories(cfg, env_info, sample_env_episodes=1024)
        do_eval(cfg)
        _print_eval_summaries
        _print_fps_stats
    """,
    "sample_factory.export_onnx": """
        OnnxExporter(cfg, env_info, actor_critic)
        create_onnx_exporter(cfg, env, enable_jit=False)
        generate_args(space, batch_size=1)
        generate_rnn_states(cfg)
        sample_space(space)
        unsqueeze_args(args)
        create_forward(original_forward, arg_names)
        patch_forward(model, input_names)
        export_onnx(cfg, f)
    """,
}

CFG = {
    "sample_factory.cfg.arguments": """
        parse_sf_args(argv=None, evaluation=False)
        parse_full_cfg(parser, argv=None)
        postprocess_args(args, argv, parser)
        preprocess_cfg(cfg, env_info)
        verify_cfg(cfg, env_info)
        cfg_dict(cfg)
        cfg_str(cfg)
        default_cfg(algo="APPO", env="env", experiment="test")
        load_from_checkpoint(cfg)
        maybe_load_from_checkpoint(cfg)
        checkpoint_override_defaults(cfg, parser)
        get_git_commit_hash()
    """,
    "sample_factory.cfg.cfg": """
        add_basic_cli_args(p)
        add_rl_args(p)
        add_model_args(p)
        add_default_env_args(p)
        add_eval_args(parser)
        add_wandb_args(p)
        add_pbt_args(p)
    """,
    "sample_factory.cfg.configurable": "Configurable(cfg)",
}

ENVS = {
    "sample_factory.envs.create_env": "create_env(full_env_name, cfg=None, env_config=None, render_mode=None)",
    "sample_factory.envs.env_utils": """
        register_env(env_name, make_env_func)
        EnvCriticalError
        vizdoom_available()
        retry(exception_class=Exception, num_attempts=3, sleep_time=1)
        find_wrapper_interface(env, interface_type)
        RewardShapingInterface
        get_default_reward_shaping(env)
        set_reward_shaping(env, reward_shaping, agent_idx)
        TrainingInfoInterface()
        find_training_info_interface(env)
        set_training_info(training_info_interface, training_info)
        num_env_steps(infos)
    """,
    "sample_factory.envs.env_wrappers": """
        has_image_observations(observation_space)
        ResizeWrapper(env, w, h, grayscale=True, add_channel_dim=False, area_interpolation=False)
        RewardScalingWrapper(env, scaling_factor)
        TimeLimitWrapper(env, limit, random_variation_steps=0)
        PixelFormatChwWrapper(env)
        RecordingWrapper(env, record_to, player_id)
        NoopResetEnv(env, noop_max=30)
        FireResetEnv(env)
        EpisodicLifeEnv(env)
        MaxAndSkipEnv(env, skip=4)
        ClipRewardEnv(env)
        NumpyObsWrapper(env)
        EpisodeCounterWrapper(env)
    """,
    "sample_factory.envs.pettingzoo_envs": """
        PettingZooParallelEnv(env)
        all_equal
        normalize_observation_space
        normalize_observation
        normalize_info
    """,
}

MODEL = {
    "sample_factory.model.actor_critic": """
        ActorCritic(obs_space, action_space, cfg)
        ActorCriticSharedWeights(model_factory, obs_space, action_space, cfg)
        ActorCriticSeparateWeights(model_factory, obs_space, action_space, cfg)
        default_make_actor_critic_func(cfg, obs_space, action_space)
        create_actor_critic(cfg, obs_space, action_space)
        obs_space_without_action_mask(obs_space)
    """,
    "sample_factory.model.encoder": """
        Encoder(cfg)
        MultiInputEncoder(cfg, obs_space)
        MlpEncoder(cfg, obs_space)
        ConvEncoderImpl(obs_shape, conv_filters, extra_mlp_layers, activation)
        ConvEncoder(cfg, obs_space)
        ResBlock(cfg, input_ch, output_ch)
        ResnetEncoder(cfg, obs_space)
        make_img_encoder(cfg, obs_space)
        default_make_encoder_func(cfg, obs_space)
    """,
    "sample_factory.model.core": """
        ModelCore(cfg)
        ModelCoreRNN(cfg, input_size)
        ModelCoreIdentity(cfg, input_size)
        default_make_core_func(cfg, core_input_size)
    """,
    "sample_factory.model.decoder": """
        Decoder(cfg)
        MlpDecoder(cfg, decoder_input_size)
        default_make_decoder_func(cfg, core_input_size)
    """,
    "sample_factory.model.action_parameterization": """
        ActionsParameterization(cfg, action_space)
        ActionParameterizationDefault(cfg, core_out_size, action_space)
        ActionParameterizationContinuousNonAdaptiveStddev(cfg, core_out_size, action_space)
    """,
    "sample_factory.model.model_factory": """
        ModelFactory()
        ModelFactory.register_actor_critic_factory(make_actor_critic_func)
        ModelFactory.register_encoder_factory(make_model_encoder_func)
        ModelFactory.register_model_core_factory(make_model_core_func)
        ModelFactory.register_decoder_factory(make_model_decoder_func)
        MakeActorCriticFunc
        MakeEncoderFunc
        MakeCoreFunc
        MakeDecoderFunc
    """,
    "sample_factory.model.model_utils": """
        get_rnn_size(cfg)
        nonlinearity(cfg, inplace=False)
        fc_layer(in_features, out_features, bias=True, spec_norm=False)
        create_mlp(layer_sizes, input_size, activation)
        ModelModule(cfg)
        model_device(model)
    """,
    "sample_factory.model.utils": "orthogonal_init(module, gain=1.0); he_normal_init(module)",
}

ALGO_UTILS = {
    "sample_factory.algo.utils.action_distributions": """
        calc_num_actions(action_space)
        calc_num_action_parameters(action_space)
        is_continuous_action_space(action_space)
        get_action_distribution(action_space, raw_logits, action_mask=None)
        sample_actions_log_probs(distribution)
        argmax_actions(distribution)
        masked_softmax(logits, mask)
        masked_log_softmax(logits, mask)
        CategoricalActionDistribution(raw_logits, action_mask=None)
        TupleActionDistribution(action_space, logits_flat, action_mask=None)
        ContinuousActionDistribution(params)
    """,
    "sample_factory.algo.utils.agent_policy_mapping": """
        AgentPolicyMapping(cfg, env_info)
        AgentPolicyMapping.get_policy_for_agent(agent_idx, env_idx, global_env_idx)
    """,
    "sample_factory.algo.utils.context": """
        SampleFactoryContext()
        sf_global_context()
        set_global_context(ctx)
        reset_global_context()
        global_env_registry()
        global_model_factory()
    """,
    "sample_factory.algo.utils.env_info": """
        ENV_INFO_PROTOCOL_VERSION
        EnvInfo(obs_space, action_space, num_agents, gpu_actions, gpu_observations, action_splits, \
all_discrete, frameskip, reward_shaping_scheme=None, env_info_protocol_version=None)
        extract_env_info(env, cfg)
        check_env_info(env, env_info, cfg)
        spawn_tmp_env_and_get_info(sf_context, res_queue, cfg)
        env_info_cache_filename(cfg)
        obtain_env_info_in_a_separate_process(cfg)
    """,
    "sample_factory.algo.utils.gymnasium_utils": "patch_non_gymnasium_env(env); convert_space(space)",
    "sample_factory.algo.utils.heartbeat": """
        HeartbeatStoppableEventLoopObject(evt_loop, unique_name, interval_sec=...)
        HeartbeatStoppableEventLoopObject.on_stop
    """,
    "sample_factory.algo.utils.make_env": """
        get_multiagent_info(env)
        is_multiagent_env(env)
        BatchedDictObservationsWrapper(env)
        BatchedMultiAgentWrapper(env)
        NonBatchedMultiAgentWrapper(env)
        NonBatchedDictObservationsWrapper(env)
        BatchedListToDictWrapper(env)
        BatchedVecEnv(env)
        SequentialVectorizeWrapper(envs)
        make_env_func_batched(cfg, env_config, render_mode=None)
        NonBatchedVecEnv(env)
        make_env_func_non_batched(cfg, env_config, render_mode=None)
    """,
    "sample_factory.algo.utils.misc": """
        EPS; EPISODIC; LEARNER_ENV_STEPS; TRAIN_STATS; TIMING_STATS; STATS_KEY; SAMPLES_COLLECTED; POLICY_ID_KEY
        MAGIC_FLOAT; MAGIC_INT
        new_trajectories_signal(policy_id)
        advance_rollouts_signal(worker_idx)
        ExperimentStatus
        memory_stats(process, device)
    """,
    "sample_factory.algo.utils.model_sharing": """
        ParameterServer(policy_id, policy_versions, serial_mode)
        ParameterClient
        ParameterClientSerial
        ParameterClientAsync
        make_parameter_client(is_serial_mode, parameter_server, cfg, env_info, timing)
    """,
    "sample_factory.algo.utils.multiprocessing_utils": """
        get_mp_ctx(serial)
        get_lock(serial=False, mp_ctx=None)
        get_mp_lock(mp_ctx=None)
        FakeLock()
    """,
    "sample_factory.algo.utils.optimizers": "Lamb(params, bias_correction=True, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, "
    "weight_decay=1e-4, min_trust=0.01, use_look_ahead=False, look_ahead_alpha=0.5, look_ahead_k=10)",
    "sample_factory.algo.utils.rl_utils": """
        trajectories_per_minibatch(cfg)
        trajectories_per_training_iteration(cfg)
        total_num_envs(cfg)
        total_num_agents(cfg, env_info)
        num_agents_per_worker(cfg, env_info)
        prepare_and_normalize_obs(model, obs)
        samples_per_trajectory(trajectory)
        calculate_discounted_sum_torch(x, dones, valids, discount, x_last=None)
        gae_advantages(rewards, dones, values, valids, /, *hyperparameters)
        make_dones(terminated, truncated)
    """,
    "sample_factory.algo.utils.running_mean_std": """
        RunningMeanStdInPlace(input_shape, epsilon=1e-5, clip=5.0, per_channel=False, norm_only=False)
        RunningMeanStdDictInPlace(obs_space, keys_to_normalize=None, epsilon=1e-5, clip=5.0, \
per_channel=False, norm_only=False)
        running_mean_std_summaries(running_mean_std_module)
    """,
    "sample_factory.algo.utils.shared_buffers": """
        policy_device(cfg, policy_id)
        init_tensor(leading_dimensions, tensor_type, tensor_shape, device, share)
        action_info(env_info)
        alloc_trajectory_tensors(env_info, num_traj, rollout, rnn_size, device, share)
        BufferMgr(cfg, env_info)
    """,
    "sample_factory.algo.utils.spaces.discretized": """
        Discretized(n, min_action, max_action)
        Discretized.to_continuous(discrete_action)
    """,
    "sample_factory.algo.utils.tensor_dict": """
        TensorDict
        clone_tensordict(d)
        shallow_recursive_copy(d)
        tensor_dict_to_numpy(d)
        to_numpy(t)
        cat_tensordicts(lst)
        find_invalid_data(t, msg=None, keys=None)
    """,
    "sample_factory.algo.utils.tensor_utils": """
        clone_tensor(t)
        unsqueeze_tensor(t, dim)
        cat_tensors(lt)
        dict_of_lists_cat(d)
        ensure_torch_tensor(t)
        ensure_numpy_array(t)
    """,
    "sample_factory.algo.utils.torch_utils": """
        init_torch_runtime(cfg, max_num_threads=1)
        inference_context(is_serial)
        to_torch_dtype(numpy_dtype)
        calc_num_elements(module, module_input_shape)
        to_scalar(value)
        masked_select(x, mask, num_non_mask)
        synchronize(cfg, device)
    """,
}
